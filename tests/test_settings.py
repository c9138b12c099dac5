from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from worker.core.episodes import EpisodeRules
from worker.core.errors import ConfigError
from worker.core.planned import DAY_US, WEEK_US, PlannedWindow
from worker.settings import (
    CLIENT_BOUNDS_MS,
    MASK,
    TRANSPORT_KEYS,
    KafkaSettings,
    Settings,
    is_loopback,
    load_settings,
    setting_keys,
    settings_with_origin,
)
from worker.settings_sources import variable_name

HOUR_US = DAY_US // 24
DOCS = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def _no_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(
    environ: dict[str, str] | None = None,
    file: Path | None = None,
    overrides: dict[str, Any] | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environ or {}, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_without_any_source_the_defaults_hold() -> None:
    assert load_settings(None, {}) == Settings()
    assert Settings().kafka.brokers == "localhost:9092"
    assert Settings().changelog_topic == "driftdetector-machine-state-changelog"


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("detection.threshold", 1.0, "1.0 is too large; write less than 1"),
        ("detection.threshold", -1, "-1 is too small; write more than -1"),
        ("detection.budget", "much", "'much' is not a number; write one without quotes"),
    ],
)
def test_a_number_that_is_none_or_out_of_bounds_is_refused(
    key: str, value: object, what: str
) -> None:
    assert refused(overrides={key: value}) == f"{key} (command line): {what}."


def test_settings_constructed_directly_read_no_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", "elsewhere:9092")
    assert Settings().kafka.brokers == "localhost:9092"


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(
    tmp_path: Path,
) -> None:
    file = toml(tmp_path, '[kafka]\nbrokers = "file:1"\n[worker]\napp_id = "from-file"\n')
    environ = {"DRIFTDETECTOR_KAFKA__BROKERS": "env:1", "DRIFTDETECTOR_HTTP__PORT": "81"}
    settings, values = settings_with_origin(file, environ, {"http.port": 82})
    origin = {value.key: value.origin for value in values}
    assert (settings.kafka.brokers, settings.worker.app_id) == ("env:1", "from-file")
    assert settings.http.port == 82
    assert origin["kafka.brokers"] == "DRIFTDETECTOR_KAFKA__BROKERS"
    assert origin["worker.app_id"] == str(file)
    assert origin["http.port"] == "command line"
    assert origin["log.level"] == "default"


def test_every_setting_is_shown_once_in_order() -> None:
    _, values = settings_with_origin(None, {})
    assert [value.key for value in values] == [key for key in setting_keys() if "client" not in key]


def test_a_file_in_the_working_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "driftdetector.toml").write_text('[log]\nlevel = "debug"\n')
    settings, values = settings_with_origin(None, {})
    assert settings.log.level == "debug"
    assert "driftdetector.toml" in [value.origin for value in values]


def test_client_settings_of_file_and_environment_are_merged_key_by_key(tmp_path: Path) -> None:
    file = toml(tmp_path, '[kafka.client]\nsecurity.protocol = "SSL"\n"socket.timeout.ms" = 100\n')
    client = {"sasl.password": "hush", "socket.timeout.ms": 200, "socket.keepalive.enable": True}
    settings, values = settings_with_origin(
        file, {"DRIFTDETECTOR_KAFKA__CLIENT": json.dumps(client)}
    )
    assert settings.kafka.client == {
        "security.protocol": "SSL",
        "socket.timeout.ms": "200",
        "sasl.password": SecretStr("hush"),
        "socket.keepalive.enable": "true",
    }
    shown = {value.key: (value.value, value.origin) for value in values}
    assert shown["kafka.client.security.protocol"] == ("SSL", str(file))
    assert shown["kafka.client.sasl.password"] == (MASK, "DRIFTDETECTOR_KAFKA__CLIENT")


@pytest.mark.parametrize(
    "key",
    [
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.assertion.private.key.passphrase",
    ],
)
def test_secrets_appear_in_nothing_that_is_printed(key: str) -> None:
    environ = {
        "DRIFTDETECTOR_HTTP__TOKEN": "hush-token",
        "DRIFTDETECTOR_KAFKA__CLIENT": json.dumps({key: "hush-client"}),
        "DRIFTDETECTOR_ONLINE__URL": "redis://:hush-redis@localhost:6379/0",
    }
    settings, values = settings_with_origin(None, environ)
    printed = f"{settings!r} {settings} {values!r} {settings.model_dump_json()}"
    assert "hush" not in printed
    assert settings.http.token is not None
    assert settings.http.token.get_secret_value() == "hush-token"


def test_an_address_of_a_token_service_is_not_a_secret() -> None:
    client = {"sasl.oauthbearer.token.endpoint.url": "https://login.example.com"}
    assert KafkaSettings(client=dict(client)).client == client


def test_a_wrong_secret_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    assert "hush" not in refused({"DRIFTDETECTOR_HTTP__TOKEN": "hush hush"})
    environ = {"DRIFTDETECTOR_KAFKA__CLIENT": '{"sasl.password": ["hush"]}'}
    assert "hush" not in refused(environ)
    assert "1772432130" not in refused(file=toml(tmp_path, "[http]\ntoken = 1772432130\n"))
    assert "hush" not in refused({"DRIFTDETECTOR_ONLINE__URL": "redis://:hush @localhost"})
    assert "1772432130" not in refused(file=toml(tmp_path, "[online]\nurl = 1772432130\n"))


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("redis://localhost", True),
        ("redis://localhost:6379/2", True),
        ("rediss://user:p%40ss@redis.example.com:6380/0?ssl_ca_certs=/etc/ca.pem", True),
        ("redis://[::1]:6379/0", True),
        ("unix:///run/redis.sock", True),
        ("localhost:6379", False),
        ("http://localhost:6379", False),
        ("redis://", False),
        ("redis://user:p@ss@localhost", False),
    ],
)
def test_the_address_of_a_redis_is_checked(url: str, is_one: bool) -> None:
    environ = {"DRIFTDETECTOR_ONLINE__URL": url}
    if is_one:
        assert load_settings(None, environ).online.url == SecretStr(url)
    else:
        assert refused(environ).startswith("online.url (DRIFTDETECTOR_ONLINE__URL): the value is")


def test_keys_of_the_online_store_begin_with_the_app_unless_told_otherwise() -> None:
    app = {"DRIFTDETECTOR_WORKER__APP_ID": "mills"}
    assert load_settings(None, app).online_prefix == "mills"
    own = app | {"DRIFTDETECTOR_ONLINE__PREFIX": "features"}
    assert load_settings(None, own).online_prefix == "features"


@pytest.mark.parametrize("key", sorted(TRANSPORT_KEYS))
def test_what_the_transport_relies_on_cannot_be_overridden(key: str) -> None:
    sentence = refused({"DRIFTDETECTOR_KAFKA__CLIENT": json.dumps({key: "x"})})
    assert sentence.startswith(f"kafka.client.{key} (DRIFTDETECTOR_KAFKA__CLIENT): ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "worker.example.com"])
def test_a_port_that_others_can_reach_needs_a_token(host: str) -> None:
    sentence = refused({"DRIFTDETECTOR_HTTP__HOST": host})
    assert sentence.startswith("http.token: ")
    assert "DRIFTDETECTOR_HTTP__TOKEN" in sentence
    environ = {"DRIFTDETECTOR_HTTP__HOST": host, "DRIFTDETECTOR_HTTP__TOKEN": "t0k3n"}
    assert load_settings(None, environ).http.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_port_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    assert load_settings(None, {"DRIFTDETECTOR_HTTP__HOST": host}).http.token is None


@pytest.mark.parametrize("brokers", ["kafka-1:9092, kafka-2:9093", "10.0.0.1", "[::1]:9092"])
def test_addresses_of_brokers_are_accepted(brokers: str) -> None:
    assert KafkaSettings(brokers=brokers).brokers == brokers.replace(" ", "")


@pytest.mark.parametrize("brokers", ["", "kafka://a:1", "a:b", "a:0", "a:70000", "a:1,,b:2", "a b"])
def test_what_is_no_address_is_refused(brokers: str) -> None:
    with pytest.raises(ValidationError, match="not an address"):
        KafkaSettings(brokers=brokers)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ('[topics]\nanomalies = "sensor-events"', "topics.anomalies ("),
        ('[topics]\nanomalies = "a b"', "topics.anomalies ("),
        ('[worker]\napp_id = ".."', "worker.app_id ("),
        ("[worker]\ncommit_interval_ms = 9", "worker.commit_interval_ms ("),
        ("[worker]\ncommit_interval_ms = 10001", "worker.commit_interval_ms ("),
        ("[worker]\ncommit_interval_ms = 1.5", "worker.commit_interval_ms ("),
        ("[worker]\ninference_threads = 0", "worker.inference_threads ("),
        ('[worker]\nprocessing_guarantee = "twice"', "worker.processing_guarantee ("),
        ('[worker]\nbundle = ""', "worker.bundle ("),
        (f'[worker]\napp_id = "{"a" * 201}"', "worker.app_id ("),
        ("[worker]\nbundle = 5", "worker.bundle ("),
        ('[http]\nport = "http"', "http.port ("),
        ('[log]\nlevel = "INFO"', "log.level ("),
        ("[kafka]\nclient = 5", "kafka.client ("),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence_with_key_and_file(
    tmp_path: Path, text: str, start: str
) -> None:
    file = toml(tmp_path, text)
    sentence = refused(file=file)
    assert sentence.startswith(f"{start}{file})")
    assert "; " in sentence  # says what to write


def test_of_several_wrong_values_the_first_is_explained_and_all_are_named(tmp_path: Path) -> None:
    sentence = refused(file=toml(tmp_path, '[worker]\napp_id = "a b"\ninference_threads = 0\n'))
    assert sentence.startswith("worker.app_id")
    assert "also wrong: worker.inference_threads" in sentence


def test_a_wrong_override_is_attributed_to_the_command_line() -> None:
    assert refused(overrides={"http.port": -1}).startswith("http.port (command line): ")


def test_every_setting_is_documented_with_its_default_and_variable() -> None:
    text = DOCS.read_text("utf-8")
    dynamic = {"worker.instance_id", "worker.inference_threads", "kafka.client", "http.token"}
    for key in setting_keys():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{key}` |")), None)
        assert row is not None, f"{key} is missing in docs/settings.md"
        _, _, default, variable, meaning, _ = row.split("|")
        assert f"`{variable_name(key)}`" in variable
        assert len(meaning) > 10
        if key not in dynamic:
            section, name = key.split(".")
            value = getattr(getattr(Settings(), section), name)
            assert default.strip() == ("none" if value is None else f"`{value}`")


def test_every_refused_or_bounded_client_setting_is_documented() -> None:
    text = DOCS.read_text("utf-8")
    decided = sorted({*TRANSPORT_KEYS, *CLIENT_BOUNDS_MS})
    assert [key for key in decided if f"`{key}`" not in text] == []


@pytest.mark.parametrize("value", ["900000", "0", "-1", "1.5", "soon", ""])
def test_a_client_setting_that_other_waits_build_on_is_bounded(value: str) -> None:
    key = "transaction.timeout.ms"
    with pytest.raises(ConfigError, match=rf"^kafka\.client\.{key} .*write 1000 to 60000"):
        load_settings(None, {"DRIFTDETECTOR_KAFKA__CLIENT": json.dumps({key: value})})
    allowed = load_settings(None, {"DRIFTDETECTOR_KAFKA__CLIENT": json.dumps({key: "10000"})})
    assert allowed.kafka.client[key] == "10000"


def test_no_worker_may_be_called_like_the_rebuild_of_state() -> None:
    with pytest.raises(ConfigError, match=r"^worker\.instance_id .*--rebuild-state"):
        load_settings(None, {"DRIFTDETECTOR_WORKER__INSTANCE_ID": "rebuild"})


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    example = DOCS.read_text("utf-8").split("```toml\n")[1].split("```")[0]
    settings = load_settings(toml(tmp_path, example), {})
    assert settings.kafka.client["sasl.mechanism"] == "SCRAM-SHA-512"


def test_the_rules_of_episodes_follow_each_machine_unless_they_are_set() -> None:
    assert Settings().episodes.rules() == EpisodeRules(None, None, 0)
    environ = {"DRIFTDETECTOR_EPISODES__MERGE_GAP_S": "90"}
    assert load_settings(None, environ).episodes.rules() == EpisodeRules(90_000_000, None, 0)
    assert "write at least 0" in refused({"DRIFTDETECTOR_EPISODES__COOL_DOWN_S": "-1"})


SUNDAY_US = (10 * DAY_US + 2 * HOUR_US, 10 * DAY_US + 6 * HOUR_US)
"""From two to six on 1970-01-11."""
WINDOWS = """
[[maintenance.windows]]
machines = "mill-*"
from = 2026-03-02T06:00:00Z
until = 2026-03-02T08:00:00+01:00
relearn = true

[[maintenance.windows]]
weekly = "sun 02:00-06:00"
"""


def test_windows_of_maintenance_come_from_the_file_or_as_json(tmp_path: Path) -> None:
    once = PlannedWindow("mill-*", 1_772_431_200_000_000, 1_772_434_800_000_000, relearn=True)
    settings, values = settings_with_origin(toml(tmp_path, WINDOWS), {})
    assert settings.maintenance.planned() == [
        once,
        PlannedWindow("*", *SUNDAY_US, every_us=WEEK_US),
    ]
    (shown,) = (value.value for value in values if value.key == "maintenance.windows")
    assert '"weekly": "sun 02:00-06:00"' in str(shown)


def test_a_window_of_maintenance_in_the_environment_is_json() -> None:
    name = "DRIFTDETECTOR_MAINTENANCE__WINDOWS"
    entry = {"from": "2026-03-02T06:00:00Z", "until": "2026-03-02T07:00:00Z", "relearn": True}
    settings = load_settings(None, {name: json.dumps([entry])})
    assert settings.maintenance.planned() == [
        PlannedWindow("*", 1_772_431_200_000_000, 1_772_434_800_000_000, relearn=True)
    ]
    assert refused({name: "[{"}).startswith(f"{name}: not a JSON array; write for example")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"weekly": "sunday at two"}, 'write a day and times in UTC, such as "sun 02:00-06:00"'),
        ({"machines": "mill-*"}, "it has no time; write from and until, or weekly"),
        ({"from": "2026-03-02T06:00:00Z"}, "it has no time"),
        ({"from": "2026-03-02T06:00:00", "until": "2026-03-02T07:00:00"}, "timezone"),
        ({"from": "2026-03-02T06:00:00Z", "until": "2026-03-02T06:00:00Z"}, "write a later until"),
        ({"weekly": "sun 02:00-06:00", "until": "2026-03-02T06:00:00Z"}, "remove them, or it"),
        ({"weekly": "sun 02:00-06:00", "relern": True}, "unknown field `relern`"),
        ({"weekly": "sun 02:00-06:00", "machines": ""}, "length >= 1"),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused_with_its_number(
    entry: dict[str, object], says: str
) -> None:
    windows = [{"weekly": "sun 02:00-06:00"}, entry]
    sentence = refused({"DRIFTDETECTOR_MAINTENANCE__WINDOWS": json.dumps(windows)})
    assert sentence.startswith(
        "maintenance.windows (DRIFTDETECTOR_MAINTENANCE__WINDOWS): window 2:"
    )
    assert says in sentence
