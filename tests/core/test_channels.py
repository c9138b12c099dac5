from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.strategies import specs
from worker.core.channels import (
    MAX_DURATION_US,
    ChannelSpec,
    WindowSpec,
    format_duration,
    parse_duration_us,
    parse_spec,
    spec_from_dict,
)
from worker.core.errors import ConfigError

ROOT = Path(__file__).parents[2]

GOOD: dict[str, Any] = {
    "name": "pump",
    "window": {"length": "1h", "pane": "1m", "grace": "90s", "max_future": "5m"},
    "channel": [
        {"name": "flow", "unit": "m3/h", "min": 0.0, "max": 500.0, "typical": [80.0, 120.0]},
        {"name": "pressure", "unit": "bar"},
        {"name": "medium", "kind": "categorical", "values": ["water", "oil"]},
        {"name": "alarm", "kind": "event"},
    ],
    "derived": [{"name": "power", "unit": "W", "product": ["flow", "pressure"], "factor": 27.8}],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one key set, such as "channel.0.min"; None removes it."""
    data = copy.deepcopy(GOOD)
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    table: Any = data
    for part in parents:
        table = table[part]
    if value is None:
        del table[last]
    else:
        table[last] = value
    return data


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        spec_from_dict(data, "pump.toml")
    text = str(error.value)
    assert text.startswith("pump.toml: ")
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("name", None, "`name`"),
        ("name", "Pump", "`name`"),
        ("name", "", "`name`"),
        ("name", "pump\n", "name 'pump\\n'"),
        ("name", 7, "`name`"),
        ("colour", "red", "`colour`"),
        ("channel", None, "`channel`"),
        ("channel", [], "channel"),
        ("channel", [{"name": "mode", "kind": "categorical", "values": ["A"]}], "continuous"),
        ("channel.0.name", None, "`name`"),
        ("channel.0.name", "Flow", "name`"),
        ("channel.0.name", "flow rate", "name`"),
        ("channel.0.name", "1flow", "name`"),
        ("channel.0.name", "f" * 64, "name`"),
        ("channel.0.name", "flow\n", "name 'flow\\n'"),
        ("channel.0.name", "pressure", "'pressure'"),
        ("channel.0.name", "machine_id", "'machine_id'"),
        ("channel.0.name", "timestamp", "'timestamp'"),
        ("channel.0.colour", "red", "`colour`"),
        ("channel.0.unit", 3, "unit`"),
        ("channel.0.kind", "ordinal", "kind`"),
        ("channel.0.min", "low", "min`"),
        ("channel.0.min", True, "min`"),
        ("channel.0.min", 500.0, "min 500.0"),
        ("channel.0.min", float("nan"), "'flow': min nan"),
        ("channel.0.min", float("-inf"), "'flow': min -inf"),
        ("channel.0.max", -1.0, "max -1.0"),
        ("channel.0.max", float("nan"), "'flow': max nan"),
        ("channel.0.max", float("inf"), "'flow': max inf"),
        ("channel.0.max", 1e31, "'flow': max 1e+31"),
        ("channel.0.typical", [1.0], "typical`"),
        ("channel.0.typical", [2.0, 1.0], "typical"),
        ("channel.0.typical", [1.0, float("inf")], "'flow': typical inf"),
        ("channel.0.values", ["A"], "values"),
        ("channel.2.values", None, "values"),
        ("channel.2.values", [], "values"),
        ("channel.2.values", ["A", "A"], "values"),
        ("channel.2.values", [1], "values"),
        ("window.length", "soon", "window.length"),
        ("window.length", "0s", "window.length"),
        ("window.length", "-1h", "window.length"),
        ("window.length", "1", "window.length"),
        ("window.length", 3600, "window.length`"),
        ("window.length", "100001d", "window.length"),
        ("window.length", "9" * 400 + "d", "window.length"),
        ("window.pane", "7m", "window.pane"),
        ("window.pane", "2h", "window.pane"),
        ("window.pane", "1ms", "window.pane"),
        ("window.pane", "", "window.pane"),
        ("window.grace", "never", "window.grace"),
        ("window.grace", "36500d", "grace"),
        ("window.max_future", "1 week", "window.max_future"),
        ("window.width", "1h", "`width`"),
        ("derived.0.name", None, "`name`"),
        ("derived.0.name", "flow", "'flow'"),
        ("derived.0.name", "timestamp", "'timestamp'"),
        ("derived.0.name", "power\n", "name 'power\\n'"),
        ("derived.0.product", None, "product"),
        ("derived.0.product", ["flow"], "product`"),
        ("derived.0.product", ["flow", "speed"], "'speed'"),
        ("derived.0.product", ["flow", "medium"], "'medium'"),
        ("derived.0.difference", ["flow", "pressure"], "difference"),
        ("derived.0.factor", "big", "factor`"),
        ("derived.0.factor", float("nan"), "'power': factor nan"),
        ("derived.0.factor", float("inf"), "'power': factor inf"),
        ("derived.0.sum", ["flow", "pressure"], "`sum`"),
        ("derived", GOOD["derived"] * 2, "'power'"),
        ("derived.0.product", ["flow", "alarm"], "'alarm'"),
        ("channel.3.values", ["A"], "values"),
        ("channel.3.name", "raw code", "name`"),
        ("feature", [{"kind": "rolling_median"}], "'rolling_median'"),
        ("feature", [{"channels": ["flow"]}], "`kind`"),
        ("feature", [{"kind": "raw", "channel": ["flow"]}], "`channel`"),
        ("feature", [{"kind": "raw", "channels": ["speed"]}], "feature 1: 'speed'"),
        (
            "feature",
            [{"kind": "slow_normalised"}, {"kind": "raw", "channels": ["power"]}],
            "feature 2",
        ),
        ("feature", [{"kind": "rolling_std", "channels": ["medium"]}], "flow, pressure"),
        ("feature", [{"kind": "rolling_std", "channels": ["alarm"]}], "flow, pressure"),
        ("feature", [{"kind": "derived", "channels": ["flow"]}], "one of power"),
        ("feature", [{"kind": "residual", "channels": ["medium"]}], "alarm"),
        ("feature", [{"kind": "slow_normalised"}] * 2, "feature 2: there would be two"),
        ("feature", [{"kind": "raw", "channels": ["flow", "flow"]}], "'flow'"),
        ("channel.2", {"name": "residual_flow"}, "'residual_flow'"),
    ],
)
def test_a_wrong_key_gives_one_sentence_that_names_it(path: str, value: Any, named: str) -> None:
    assert named in refusal(changed(path, value))


def test_text_that_is_no_toml_is_refused_with_the_files_name() -> None:
    with pytest.raises(ConfigError, match=r"^pump\.toml: not valid TOML: "):
        parse_spec("name = ", "pump.toml")


@pytest.mark.parametrize(
    ("text", "duration_us"),
    [
        ("1us", 1), ("250ms", 250_000), ("90s", 90_000_000), ("1.5m", 90_000_000),
        ("1h", 3_600_000_000), (" 2 d ", 172_800_000_000), ("36500d", MAX_DURATION_US),
    ],
)  # fmt: skip
def test_a_duration_is_a_number_and_a_unit(text: str, duration_us: int) -> None:
    assert parse_duration_us(text, "x") == duration_us


@pytest.mark.parametrize("text", ["", "h", "1 hour", "1e3s", "0.1us", "36501d", "1h30m", "∞s"])
def test_anything_else_is_refused_and_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--every: .* is not a duration; write "):
        parse_duration_us(text, "--every")


@given(st.integers(1, MAX_DURATION_US // 10**6))
def test_a_written_duration_reads_back_exactly(duration_us: int) -> None:
    assert parse_duration_us(format_duration(duration_us), "x") == duration_us


def test_the_largest_unit_that_divides_a_duration_is_written() -> None:
    written = [
        format_duration(us) for us in (3_600_000_000, 90_000_000, 1_500_000, 7, 86_400_000_000)
    ]
    assert written == ["1h", "90s", "1500ms", "7us", "1d"]


def read(path: str) -> ChannelSpec:
    return parse_spec((ROOT / path).read_text(), path)


def test_the_default_channels_have_5_raw_and_27_engineered_features() -> None:
    spec = read("models/machine-health/channels.toml")
    raw = ["vibration", "temperature", "rotational_speed", "torque", "tool_wear"]
    assert spec.feature_names[:5] == tuple(raw)
    assert len(set(spec.feature_names)) == len(spec.feature_units) == len(spec.features) == 32
    units = dict(zip(spec.feature_names, spec.feature_units, strict=True))
    assert units["rolling_std_torque"] == units["torque"] == "N*m"
    assert units["residual_torque"] == units["normalised_power_w"] == "sd"
    assert (spec.panes, spec.length_us, spec.pane_us) == (60, 3_600_000_000, 60_000_000)


def test_signals_are_channels_then_derived_ones_then_codes() -> None:
    spec = spec_from_dict(GOOD)
    assert spec.signals == ("flow", "pressure", "power", "alarm")
    assert spec.signal_units == ("m3/h", "bar", "W", "")
    assert spec.operands == ((0, 1),)
    assert [c.name for c in spec.events] == ["alarm"]
    assert [c.name for c in spec.continuous] == ["flow", "pressure"]
    assert [c.name for c in spec.categorical] == ["medium"]


def test_another_channel_set_has_other_features_and_panes() -> None:
    spec = read("tests/data/pump.toml")
    assert spec.panes == 24
    assert spec.feature_names[3] == "normalised_flow"
    assert len(spec.features) == 3 * 5 + 4
    assert spec.categorical == ()


def test_features_are_made_of_all_that_have_them_or_of_those_named_in_their_order() -> None:
    groups = [
        {"kind": "rolling_max", "channels": ["pressure", "flow"]},
        {"kind": "derived"},
        {"kind": "slow_normalised"},
    ]
    spec = spec_from_dict(changed("feature", groups))
    assert spec.feature_names == (
        "rolling_max_pressure",
        "rolling_max_flow",
        "power",
        "slow_normalised_flow",
        "slow_normalised_pressure",
        "slow_normalised_power",
        "slow_normalised_alarm",
    )
    assert spec.feature_units == ("bar", "m3/h", "W", "sd", "sd", "sd", "sd")
    assert spec.feature_owners == (1, 0, 2, 0, 1, 2, 3)


def test_a_kind_of_feature_that_nothing_has_is_refused() -> None:
    data = changed("derived", []) | {"feature": [{"kind": "derived"}]}
    assert "feature 1: there is no derived signal to make 'derived' of" in refusal(data)


def test_whether_the_window_was_written_is_known_and_it_can_be_given_later() -> None:
    spec = spec_from_dict(changed("window", None))
    assert spec.window is None
    assert (spec.length_us, spec.pane_us) == (3_600_000_000, 60_000_000)
    assert spec_from_dict(GOOD).window == WindowSpec("1h", "1m", "90s", "5m")
    longer = spec.with_window(WindowSpec("1d", "1h"))
    assert (longer.window, longer.panes) == (WindowSpec("1d", "1h"), 24)
    assert longer.with_window(WindowSpec()).features == spec.features
    with pytest.raises(ConfigError, match=r"window\.pane"):
        spec.with_window(WindowSpec("1d", "7h"))


def test_enough_panes_are_kept_for_the_window_of_the_oldest_event_within_grace() -> None:
    for grace, reopened in (("1us", 1), ("1m", 1), ("60000001us", 2), ("90s", 2), ("1h", 60)):
        spec = spec_from_dict(changed("window.grace", grace))
        assert spec.slots == spec.panes + reopened


@settings(max_examples=100, deadline=None)
@given(specs())
def test_a_specification_reads_back_from_its_dict_and_from_toml(spec: ChannelSpec) -> None:
    assert spec_from_dict(spec.to_dict()) == spec
    assert parse_spec(tomli_w.dumps(spec.to_dict())) == spec


def test_only_name_and_channels_are_required() -> None:
    spec = parse_spec('name = "x"\nchannel = [{ name = "a" }]')
    default = ("normalised", "residual", "slow_mean", "rolling_std", "rolling_deviation")
    assert spec.feature_names == ("a", *(f"{kind}_a" for kind in default))
    assert (spec.grace_us, spec.max_future_us) == (300_000_000, 300_000_000)
