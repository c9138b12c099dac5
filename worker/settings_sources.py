"""Where settings come from: the TOML file, the environment; and how an error names them.

Knows nothing of the sections themselves: ``worker/settings.py`` passes its class and keys in.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    SettingsError,
    TomlConfigSettingsSource,
)

from worker.core.errors import ConfigError

CONFIG_FILE = "driftdetector.toml"
ENV_PREFIX = "DRIFTDETECTOR_"
OTHER_VARIABLES = frozenset({"DRIFTDETECTOR_CONFIG", "DRIFTDETECTOR_DATA"})
"""Variables with our prefix that are not settings: the file to read, and data sets for tests."""

_SECRET_KEY = re.compile(r"^online\.url$|(password|passphrase|secret|token|key\.pem)(?!.*\.url$)")
# Kubernetes sets these in every pod beside a Service whose name starts with "driftdetector".
_SERVICE_LINK = re.compile(
    r"^DRIFTDETECTOR_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$"
)


def variable_name(key: str) -> str:
    """The environment variable of a key: ``kafka.brokers`` -> ``DRIFTDETECTOR_KAFKA__BROKERS``."""
    return ENV_PREFIX + "__".join(key.split(".")[:2]).upper()


def is_secret(key: str) -> bool:
    """Whether the value of ``key`` must not be shown: passwords, tokens, private keys."""
    return bool(_SECRET_KEY.search(key))


_JSON = {
    variable_name("kafka.client"): (
        'not a JSON object; write for example \'{"security.protocol": "SSL"}\''
    ),
    variable_name("maintenance.windows"): (
        'not a JSON array; write for example \'[{"machines": "mill-*", '
        '"weekly": "sun 02:00-06:00"}]\''
    ),
    variable_name("drift.windows_min"): "not a JSON array; write for example [5, 60, 1440]",
}


class _EnvironmentSource(EnvSettingsSource):
    """pydantic-settings' environment source, on a mapping that is passed in."""

    def __init__(self, settings_class: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(settings_class)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


def find_file(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: ``config_file``, else what the environment names, else the default's.

    Raises:
        ConfigError: a file was named and does not exist.
    """
    named_by = "--config"
    if config_file is None and environ.get("DRIFTDETECTOR_CONFIG"):
        config_file, named_by = Path(environ["DRIFTDETECTOR_CONFIG"]), "DRIFTDETECTOR_CONFIG"
    if config_file is None:
        return Path(CONFIG_FILE) if Path(CONFIG_FILE).is_file() else None
    if not config_file.is_file():
        raise ConfigError(
            f"{named_by}: there is no file {str(config_file)!r}; write the path of a TOML file."
        )
    return config_file


def read_file(settings_class: type[BaseSettings], path: Path) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a TOML file.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        data = TomlConfigSettingsSource(settings_class, path)()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}.") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    return flatten(data)


def read_environment(
    settings_class: type[BaseSettings], keys: Collection[str], environ: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of our variables; empty ones count as not set.

    Args:
        settings_class: the settings with their sections.
        keys: every dotted key there is.
        environ: usually ``os.environ``; variables of others are ignored.

    Raises:
        ConfigError: a variable with our prefix belongs to no setting, or is not JSON where it must.
    """
    known = {variable_name(key) for key in keys}
    ours: dict[str, str] = {}
    for name, value in environ.items():
        upper = name.upper()
        if not upper.startswith(ENV_PREFIX) or not value:
            continue
        if upper in known:
            ours[upper] = value
        elif upper not in OTHER_VARIABLES and not _is_service_link(upper, value):
            hint = _did_you_mean(upper, known)
            raise ConfigError(f"{name}: no setting has this environment variable; {hint}")
    try:
        return flatten(_EnvironmentSource(settings_class, ours)())
    except SettingsError as error:
        # It names the section only; the key is the one whose text is not JSON.
        name = next(name for name in _JSON if name in ours and not _is_json(ours[name]))
        raise ConfigError(f"{name}: {_JSON[name]}.") from error


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _is_service_link(name: str, value: str) -> bool:
    if name.endswith("PORT") and value.startswith(("tcp://", "udp://", "sctp://")):
        return True
    return bool(_SERVICE_LINK.match(name))


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as dotted keys: ``{"kafka": {"brokers": x}}`` -> ``("kafka.brokers", x)``."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections; what follows ``section.name.`` stays one key, dots included."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, name, *rest = key.split(".", 2)
        table = nested.setdefault(section, {})
        if rest:
            table = table.setdefault(name, {})
        table[rest[0] if rest else name] = value
    return nested


def check_known(key: str, origin: str, known: Collection[str]) -> None:
    """Refuse a dotted key that is not in ``known``.

    Raises:
        ConfigError: with the most similar key.
    """
    if key in known and key != "kafka.client":
        return
    if key == "kafka.client":
        raise ConfigError(f'{key} ({origin}): not a table; write {{"security.protocol" = "SSL"}}.')
    if any(name.startswith(f"{key}.") for name in known):
        raise ConfigError(f"{key} ({origin}): this is a section; write [{key}] and its keys below.")
    if not key.startswith("kafka.client."):
        raise ConfigError(f"{key} ({origin}): there is no such key; {_did_you_mean(key, known)}")


def _did_you_mean(word: str, known: Collection[str]) -> str:
    # Without the prefix, which would make any two variables look alike.
    by_rest = {name.removeprefix(ENV_PREFIX): name for name in known}
    close = difflib.get_close_matches(word.removeprefix(ENV_PREFIX), by_rest, n=1)
    return f"did you mean {by_rest[close[0]]}?" if close else "docs/settings.md lists every key."


def error_sentence(errors: list[ErrorDetails], origins: Mapping[str, str]) -> str:
    """One sentence for what pydantic found wrong.

    Args:
        errors: at least one.
        origins: where the value of each dotted key came from.
    """
    keys = [_key_of(error) for error in errors]
    key = keys[0]
    origin = f" ({origins[key]})" if key in origins else ""
    more = sorted(set(keys) - {key})
    also = f" (also wrong: {', '.join(more)})" if more else ""
    return f"{key}{origin}: {_problem(key, errors[0])}{also}."


def _key_of(error: ErrorDetails) -> str:
    # Below kafka.client, pydantic adds the tried type to the location; above, nothing.
    section, name, *rest = map(str, error["loc"])
    client_key = error.get("ctx", {}).get("client_key") or (rest[0] if rest else None)
    return f"{section}.{name}.{client_key}" if client_key else f"{section}.{name}"


def _problem(key: str, error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    given = "the value" if is_secret(key) else repr(error["input"])
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "client_key":
            return error["msg"]
        case "literal_error":
            return f"{given} is not possible; write {context['expected'].replace(chr(39), chr(34))}"
        case "int_parsing" | "int_type" | "int_from_float":
            return f"{given} is not a whole number; write one without quotes"
        case "float_parsing" | "float_type":
            return f"{given} is not a number; write one without quotes"
        case "greater_than":
            return f"{given} is too small; write more than {context['gt']:g}"
        case "less_than":
            return f"{given} is too large; write less than {context['lt']:g}"
        case "greater_than_equal":
            return f"{given} is too small; write at least {context['ge']}"
        case "less_than_equal":
            return f"{given} is too large; write at most {context['le']}"
        case "string_too_short":
            return "the text is empty; write one, or remove the key"
        case "string_too_long":
            return f"the text is too long; write at most {context['max_length']} characters"
        case _:
            return f"{given} is not text; write it in quotes"
