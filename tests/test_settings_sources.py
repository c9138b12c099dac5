from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.errors import ConfigError
from worker.settings import load_settings, setting_keys
from worker.settings_sources import flatten, nest, variable_name


@pytest.fixture(autouse=True)
def _no_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(environ: dict[str, str], file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environ)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DRIFTDETECTOR_KAFKA__BROKER", "DRIFTDETECTOR_KAFKA__BROKERS"),
        ("DRIFTDETECTOR_HTTP_PORT", "DRIFTDETECTOR_HTTP__PORT"),
        ("driftdetector_http__prot", "DRIFTDETECTOR_HTTP__PORT"),
        ("DRIFTDETECTOR_KAFKA__CLIENT__X", "DRIFTDETECTOR_KAFKA__CLIENT"),
    ],
)
def test_a_mistyped_variable_is_an_error_that_names_the_likely_one(name: str, meant: str) -> None:
    sentence = refused({name: "1"})
    assert sentence.startswith(f"{name}: ")
    assert sentence.endswith(f"did you mean {meant}?")


def test_a_variable_like_no_setting_is_an_error_that_points_to_the_documentation() -> None:
    assert "docs/settings.md" in refused({"DRIFTDETECTOR_QQQ": "1"})


def test_variables_in_lower_case_count() -> None:
    assert load_settings(None, {"driftdetector_http__port": "81"}).http.port == 81


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_settings(None, {"DRIFTDETECTOR_HTTP__TOKEN": ""}).http.token is None
    assert load_settings(None, {"DRIFTDETECTOR_LOG__LEVEL": ""}).log.level == "info"


def test_variables_of_others_are_ignored() -> None:
    load_settings(None, {"PATH": "/bin", "KAFKA__BROKERS": "x", "DRIFTDETECTOR_DATA": "/data"})


def test_what_kubernetes_sets_for_a_service_of_our_name_is_ignored() -> None:
    load_settings(
        None,
        {
            "DRIFTDETECTOR_PORT": "tcp://10.0.0.1:8080",
            "DRIFTDETECTOR_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            "DRIFTDETECTOR_PORT_8080_TCP_ADDR": "10.0.0.1",
            "DRIFTDETECTOR_SERVICE_HOST": "10.0.0.1",
            "DRIFTDETECTOR_SERVICE_PORT": "8080",
            "DRIFTDETECTOR_WORKER_SERVICE_PORT_HTTP": "8080",
        },
    )


@pytest.mark.parametrize("text", ["{", "[1]", "5", '"text"'])
def test_client_settings_in_the_environment_must_be_a_json_object(text: str) -> None:
    assert "DRIFTDETECTOR_KAFKA__CLIENT" in refused({"DRIFTDETECTOR_KAFKA__CLIENT": text})


def test_the_variable_can_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.toml"
    path.write_text("[http]\nport = 81\n")
    environ = {"DRIFTDETECTOR_CONFIG": str(path)}
    assert load_settings(None, environ).http.port == 81
    other = tmp_path / "other.toml"
    other.write_text("[http]\nport = 82\n")
    assert load_settings(other, environ).http.port == 82


def test_a_named_file_that_does_not_exist_is_an_error() -> None:
    assert refused({}, Path("/nowhere.toml")).startswith("--config: ")
    sentence = refused({"DRIFTDETECTOR_CONFIG": "/nowhere.toml"})
    assert sentence.startswith("DRIFTDETECTOR_CONFIG: ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[kafka", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"[kafka]\nbroker = 'a:1'", "did you mean kafka.brokers?"),
        (b"[kafak]\nbrokers = 'a:1'", "did you mean kafka.brokers?"),
        (b"kafka = 'a:1'", "this is a section"),
        (b"brokers = 'a:1'", "no such key"),
        (b"[worker.bundle]\nname = 'x'", "no such key"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence_that_names_it(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(content)
    sentence = refused({}, path)
    assert str(path) in sentence
    assert says in sentence
    assert "\n" not in sentence


def test_an_unreadable_file_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "locked.toml"
    path.write_text("")

    def no_access(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", no_access)
    assert refused({}, path) == f"{path}: cannot be read: Permission denied."


def test_every_setting_has_a_variable_of_its_own() -> None:
    assert len({variable_name(key) for key in setting_keys()}) == len(setting_keys())


NAMES = st.text("abc_", min_size=1, max_size=5)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(), min_size=1), max_size=5))
def test_flattening_and_nesting_are_inverse(sections: dict[str, dict[str, int]]) -> None:
    assert nest(dict(flatten(sections))) == sections


def test_dots_below_a_table_of_a_section_stay_in_the_key() -> None:
    assert nest({"kafka.client.a.b": 1}) == {"kafka": {"client": {"a.b": 1}}}
