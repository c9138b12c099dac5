"""Settings: their sections, defaults, limits, and where each value came from.

Sources, the later winning: defaults, ``driftdetector.toml``, ``DRIFTDETECTOR_*``
environment variables, options of the command line. Nothing here is global:
callers pass the environment in, so two configurations can live in one process.
Every key is explained in ``docs/settings.md``.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker.core.channels import US_PER_S
from worker.core.errors import ConfigError
from worker.settings_sources import (
    ENV_PREFIX,
    check_known,
    error_sentence,
    find_file,
    flatten,
    is_secret,
    nest,
    read_environment,
    read_file,
    variable_name,
)

if TYPE_CHECKING:
    from worker.core.episodes import EpisodeRules
    from worker.core.planned import PlannedWindow

MASK = "**********"
_BROKER = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:(\d{1,5}))?$")
_REDIS = re.compile(
    r"^(rediss?://([^\s/@]*@)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?(/\d*)?"
    r"|unix://([^\s/@]*@)?/[^\s?]+)(\?\S*)?$"
)
_KAFKA_NAME = re.compile(r"^[A-Za-z0-9._-]+$")
# What the transport decides itself: another value would break exactly-once or the hand-over.
TRANSPORT_KEYS = frozenset(
    {
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "group.remote.assignor",
        "isolation.level",
        "metadata.broker.list",
        "partition.assignment.strategy",
        "transactional.id",
    }
)
# Beyond these, waits in the transport end before what they wait for can have happened.
CLIENT_BOUNDS_MS = {
    "transaction.timeout.ms": (1_000, 60_000),
    "max.poll.interval.ms": (180_000, 86_400_000),
}
_USE_BROKERS = "the addresses have their own key; write kafka.brokers instead"
_TRANSPORT_DECIDES = "DriftDetector decides this itself, exactly-once depends on it; remove it"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class KafkaSettings(_Section):
    """How to reach the cluster.

    Attributes:
        client: further librdkafka settings (TLS, SASL, tuning); secrets are
            :class:`SecretStr`, so no print or log can show them.
    """

    brokers: str = "localhost:9092"
    client: dict[str, str | SecretStr] = Field(default_factory=dict)

    @field_validator("brokers")
    @classmethod
    def _check_brokers(cls, value: str) -> str:
        for broker in value.split(","):
            match = _BROKER.match(broker.strip())
            if not match or (match[3] and not 0 < int(match[3]) < 65536):
                raise ValueError(
                    f"{broker.strip()!r} is not an address; write HOST:PORT, several separated "
                    'by commas, such as "kafka-1:9092,kafka-2:9092"'
                )
        return ",".join(broker.strip() for broker in value.split(","))

    @field_validator("client", mode="before")
    @classmethod
    def _flatten_client(cls, value: object) -> object:
        # TOML reads an unquoted `security.protocol = "SSL"` as nested tables.
        if not isinstance(value, Mapping):
            return value
        return {key: _client_value(item) for key, item in flatten(value)}

    @field_validator("client")
    @classmethod
    def _check_client(cls, value: dict[str, str | SecretStr]) -> dict[str, str | SecretStr]:
        for key in value:
            if key in ("bootstrap.servers", "metadata.broker.list"):
                raise PydanticCustomError("client_key", _USE_BROKERS, {"client_key": key})
            if key in TRANSPORT_KEYS:
                raise PydanticCustomError("client_key", _TRANSPORT_DECIDES, {"client_key": key})
            low, high = CLIENT_BOUNDS_MS.get(key, (0, 0))
            number = str(value[key])
            if high and not (number.isascii() and number.isdigit() and low <= int(number) <= high):
                raise PydanticCustomError(
                    "client_key",
                    "{given} would break other waits; write {low} to {high}",
                    {"client_key": key, "given": repr(number), "low": low, "high": high},
                )
        return {
            key: SecretStr(item) if isinstance(item, str) and is_secret(key) else item
            for key, item in value.items()
        }


class TopicSettings(_Section):
    """Names of the topics in the cluster."""

    sensor_events: str = "sensor-events"
    anomalies: str = "anomalies"
    anomaly_episodes: str = "anomaly-episodes"
    sensor_health: str = "sensor-health"
    late_events: str = "late-events"
    dead_letters: str = "dead-letters"
    replays: str = "replays"
    drift_events: str = "drift-events"
    retraining_requests: str = "retraining-requests"
    audit: str = "audit"

    @field_validator("*")
    @classmethod
    def _check_name(cls, value: str, info: ValidationInfo) -> str:
        _check_kafka_name(value)
        for other, name in info.data.items():
            if name == value:
                raise ValueError(f"{value!r} is also topics.{other}; give each its own topic")
        return value


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:200] or "0"


class WorkerSettings(_Section):
    """The scoring worker.

    Attributes:
        app_id: consumer group, and prefix of the changelog topic and transactional ids.
        instance_id: which replica this is; must stay the same over its restarts.
        commit_interval_ms: how often state, outputs and offsets are committed together; well
            below the 30 s after which Kafka aborts an open transaction.
        bundle: name (newest version), name/version, or path of a bundle folder.
        inference_threads: threads of the ONNX session.
        stall_timeout_s: how long the worker may stand still before it ends itself; below 100 an
            outage of the brokers looks like a stall.
        machine_retention_h: a machine that sent nothing while the partition's newest event time
            moved on by this is forgotten.
        max_machines: how many machines a partition may have; events of more are dead letters.
        standby_replicas: how many other workers keep a copy of each partition's state.
    """

    app_id: Annotated[str, StringConstraints(max_length=200)] = "driftdetector"
    instance_id: Annotated[str, StringConstraints(max_length=200)] = Field(
        default_factory=_host_name
    )
    processing_guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once"
    commit_interval_ms: int = Field(250, ge=10, le=10_000)
    bundle: Annotated[str, StringConstraints(min_length=1)] = "machine-health"
    inference_threads: int = Field(
        default_factory=lambda: min(256, len(os.sched_getaffinity(0))), ge=1, le=256
    )
    stall_timeout_s: int = Field(120, ge=5, le=3_600)
    machine_retention_h: int = Field(168, ge=1, le=87_600)
    max_machines: int = Field(25_000, ge=1, le=1_000_000)
    standby_replicas: int = Field(0, ge=0, le=10)

    @field_validator("app_id", "instance_id")
    @classmethod
    def _check_name(cls, value: str, info: ValidationInfo) -> str:
        if info.field_name == "instance_id" and value == "rebuild":
            raise ValueError(
                "'rebuild' is what --rebuild-state calls itself; write another name, such as 0"
            )
        return _check_kafka_name(value)


class DetectionSettings(_Section):
    """How readily readings count as abnormal.

    Attributes:
        budget: false episodes a machine and day that are tolerated, from which the threshold
            follows; absent: what the bundle was trained with.
        threshold: an expert's own threshold of the anomaly score instead, for all machines.
    """

    budget: float | None = Field(None, gt=0.0, le=1_000.0)
    threshold: float | None = Field(None, gt=-1.0, lt=1.0)


class EpisodeSettings(_Section):
    """When abnormal readings make an episode; what is absent follows from each machine's data.

    Attributes:
        merge_gap_s: event time for which a machine has to be seen normal until its episode
            closes; absent: a quarter of its long scale.
        cool_down_s: event time after a close during which none opens; absent: the merge gap.
        minimum_duration_s: for how long readings have to be abnormal until an episode opens.
    """

    merge_gap_s: int | None = Field(None, ge=0, le=31_536_000)
    cool_down_s: int | None = Field(None, ge=0, le=31_536_000)
    minimum_duration_s: int = Field(0, ge=0, le=31_536_000)

    def rules(self) -> EpisodeRules:
        """As the core takes them."""
        from worker.core.episodes import EpisodeRules  # compiled code: only who scores loads it

        def time_us(seconds: int | None) -> int | None:
            return None if seconds is None else seconds * US_PER_S

        return EpisodeRules(
            merge_gap_us=time_us(self.merge_gap_s),
            cool_down_us=time_us(self.cool_down_s),
            minimum_us=self.minimum_duration_s * US_PER_S,
        )


class MaintenanceSettings(_Section):
    """Planned maintenance that machines do not announce themselves.

    Attributes:
        windows: each with ``machines``, ``from`` and ``until`` or ``weekly``, and ``relearn``.
    """

    windows: list[dict[str, Any]] = Field(default_factory=list)

    @field_validator("windows")
    @classmethod
    def _check_windows(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        _planned_windows(value)
        return value

    def planned(self) -> list[PlannedWindow]:
        """As the core takes them."""
        return _planned_windows(self.windows)


def _planned_windows(entries: list[dict[str, Any]]) -> list[PlannedWindow]:
    windows = []
    for number, entry in enumerate(entries, 1):
        from worker.core.planned import parse_window  # numpy: only who has windows loads it

        try:
            windows.append(parse_window(entry))
        except ValueError as error:
            raise ValueError(f"window {number}: {error}") from error
    return windows


class DriftSettings(_Section):
    """When what machines send counts as different from the training.

    Attributes:
        windows_min: lengths of the windows that are judged side by side, shortest first.
        grace_s: event time for which a window waits for late rows after its end.
        patience_min: a partition that was silent for longer, while others were not, is not waited
            for.
        minimum_sample: windows with fewer rows are not judged.
        false_alarm_rate: false alarms that are tolerated, per window.
        persistence: windows in a row that have to show a drift until it opens.
        recovery: windows in a row that must not show it until it closes.
        retrain_after_h: how long a drift lasts until retraining is asked for.
        retrain_cool_down_h: for how long it is not asked for again.
        port: of the drift agent's own /health and /metrics; 0 takes any free port.
    """

    windows_min: list[Annotated[int, Field(ge=1, le=44_640)]] = Field(
        default_factory=lambda: [5, 60, 1440], min_length=1, max_length=5
    )
    grace_s: int = Field(300, ge=60, le=86_400)
    patience_min: int = Field(60, ge=1, le=44_640)
    minimum_sample: int = Field(30, ge=10, le=1_000_000)
    false_alarm_rate: float = Field(0.01, ge=1e-6, le=0.2)
    persistence: int = Field(2, ge=1, le=100)
    recovery: int = Field(3, ge=1, le=100)
    retrain_after_h: int = Field(6, ge=0, le=8_760)
    retrain_cool_down_h: int = Field(168, ge=0, le=8_760)
    port: int = Field(8081, ge=0, le=65_535)

    @field_validator("windows_min")
    @classmethod
    def _check_windows(cls, value: list[int]) -> list[int]:
        if any(longer <= shorter for shorter, longer in pairwise(value)):
            raise ValueError("the windows are not in ascending order; write the shortest first")
        return value


class OnlineSettings(_Section):
    """Where the latest features of each machine are kept for other services.

    Attributes:
        url: of a Redis, ``redis://`` or with TLS ``rediss://``; it may hold a password. Absent:
            nothing is kept.
        prefix: of its keys; absent: ``worker.app_id``.
        ttl_s: machines that were not written for so long are gone.
        flush_interval_ms: the shortest time between two writings.
        timeout_ms: for how long an answer is waited for.
    """

    url: SecretStr | None = None
    prefix: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    ttl_s: int = Field(3_600, ge=10, le=31_536_000)
    flush_interval_ms: int = Field(500, ge=50, le=60_000)
    timeout_ms: int = Field(1_000, ge=10, le=10_000)

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: SecretStr | None) -> SecretStr | None:
        # What is wrong with it is not shown, for it may be the password.
        if value is not None and not _REDIS.match(value.get_secret_value()):
            raise ValueError(
                "the value is not the URL of a Redis; write redis://HOST:PORT/0, with TLS "
                "rediss://USER:PASSWORD@HOST:PORT/0, special characters as %XX"
            )
        return value


class HttpSettings(_Section):
    """The worker's own port, for ``/health`` and ``/metrics``.

    Attributes:
        port: 0 takes any free port.
        token: bearer token; needed as soon as other machines can reach the port.
    """

    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65_535)
    token: SecretStr | None = None

    @field_validator("token")
    @classmethod
    def _check_token(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        host = info.data.get("host", "127.0.0.1")
        if value is None and not is_loopback(host):
            raise ValueError(
                f"a token is required because other machines can reach http.host {host!r}; set "
                "DRIFTDETECTOR_HTTP__TOKEN to a long random text, or http.host to 127.0.0.1"
            )
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
            raise ValueError("the token must be printable ASCII without spaces; write another")
        return value


class ServeSettings(_Section):
    """The HTTP service.

    Attributes:
        port: 0 takes any free port.
        tokens_file: whose hashes of tokens it goes by; needed as soon as other machines can reach
            the port.
        max_body_bytes: of a request.
        body_timeout_s: for how long the body of a request may take to arrive.
        max_requests: that are answered at once.
        max_streams: live pages that are open at once.
        max_requests_per_s: of one token, or without tokens of one address.
    """

    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    tokens_file: Path | None = None
    max_body_bytes: int = Field(1_048_576, ge=1_024, le=67_108_864)
    body_timeout_s: int = Field(5, ge=1, le=300)
    max_requests: int = Field(256, ge=1, le=100_000)
    max_streams: int = Field(200, ge=1, le=100_000)
    max_requests_per_s: int = Field(5_000, ge=1, le=1_000_000)

    @field_validator("tokens_file")
    @classmethod
    def _check_tokens_file(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        host = info.data.get("host", "127.0.0.1")
        if value is None and not is_loopback(host):
            raise ValueError(
                f"tokens are required because other machines can reach serve.host {host!r}; make "
                "one with `driftdetector token new --file tokens.toml` and name the file, or set "
                "serve.host to 127.0.0.1"
            )
        return value


class LogSettings(_Section):
    """What the processes log to stderr.

    Attributes:
        format: auto: text on a terminal, else JSON.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class TracingSettings(_Section):
    """Traces, by OpenTelemetry.

    Attributes:
        endpoint: of a collector that takes OTLP over HTTP; absent: no traces.
    """

    endpoint: str | None = None

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", value):
            raise ValueError(
                f"{value!r} is not a collector's address; write it as in "
                '"http://collector:4318", with credentials in OTEL_EXPORTER_OTLP_HEADERS'
            )
        return value


class Settings(BaseSettings):
    """All settings; see :func:`load_settings`. Constructed directly, it reads no source."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    topics: TopicSettings = Field(default_factory=TopicSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    detection: DetectionSettings = Field(default_factory=DetectionSettings)
    episodes: EpisodeSettings = Field(default_factory=EpisodeSettings)
    maintenance: MaintenanceSettings = Field(default_factory=MaintenanceSettings)
    drift: DriftSettings = Field(default_factory=DriftSettings)
    online: OnlineSettings = Field(default_factory=OnlineSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    serve: ServeSettings = Field(default_factory=ServeSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read no source but the constructor's arguments."""
        # load_settings merges the sources itself, to know each value's origin.
        return (init_settings,)

    @property
    def changelog_topic(self) -> str:
        """Name of the compacted topic that machine state recovers from."""
        return f"{self.worker.app_id}-machine-state-changelog"

    @property
    def partials_topic(self) -> str:
        """Name of the topic between the scoring workers and the drift agent."""
        return f"{self.worker.app_id}-drift-partials"

    @property
    def drift_changelog_topic(self) -> str:
        """Name of the compacted topic that the drift agent's state recovers from."""
        return f"{self.worker.app_id}-drift-state-changelog"

    @property
    def internal_topics(self) -> dict[str, str]:
        """Topics that belong to one ``worker.app_id``: their names, by the declared ones."""
        return {
            "machine-state-changelog": self.changelog_topic,
            "drift-partials": self.partials_topic,
            "drift-state-changelog": self.drift_changelog_topic,
        }

    @property
    def online_prefix(self) -> str:
        """What the keys of the online store begin with."""
        return self.online.prefix or self.worker.app_id

    def of_drift_agent(self) -> Settings:
        """The same for the drift agent's process: its own group, port and no standby copies."""
        worker = {"app_id": f"{self.worker.app_id}-drift", "standby_replicas": 0}
        return self.model_copy(
            update={
                "worker": self.worker.model_copy(update=worker),
                "http": self.http.model_copy(update={"port": self.drift.port}),
            }
        )


@dataclass(frozen=True)
class SettingValue:
    """One setting as shown to a person.

    Attributes:
        key: dotted, such as ``kafka.brokers``.
        value: a JSON value; secrets are already masked.
        origin: ``default``, a file's path, an environment variable, or ``command line``.
    """

    key: str
    value: str | int | None
    origin: str


def load_settings(
    config_file: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Merge all sources and validate them.

    Args:
        config_file: the TOML file; None: the one that ``DRIFTDETECTOR_CONFIG`` names,
            or ``driftdetector.toml`` in the working directory where there is one.
        environ: usually ``os.environ``; an empty variable counts as not set.
        overrides: dotted keys, such as ``{"kafka.brokers": "localhost:9092"}``.

    Raises:
        ConfigError: one sentence that names the key and where its value came from,
            what is wrong with it and what to write.
    """
    return settings_with_origin(config_file, environ, overrides)[0]


def settings_with_origin(
    config_file: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Settings, list[SettingValue]]:
    """Like :func:`load_settings`, and each value with its origin, in order of the sections."""
    keys = setting_keys()
    merged: dict[str, tuple[Any, str]] = {}
    path = find_file(config_file, environ)
    if path is not None:
        merged |= {key: (value, str(path)) for key, value in read_file(Settings, path)}
    from_environment = read_environment(Settings, keys, environ)
    merged |= {key: (value, variable_name(key)) for key, value in from_environment}
    merged |= {key: (value, "command line") for key, value in flatten(overrides or {})}
    for key, (_, origin) in merged.items():
        check_known(key, origin, keys)
    try:
        settings = Settings(**nest({key: value for key, (value, _) in merged.items()}))
    except ValidationError as error:
        origins = {key: origin for key, (_, origin) in merged.items()}
        raise ConfigError(error_sentence(error.errors(), origins)) from None
    values = [
        SettingValue(key, value, merged[key][1] if key in merged else "default")
        for key, value in _shown(settings)
    ]
    return settings, values


def setting_keys() -> list[str]:
    """Every key in order, dotted."""
    return [f"{section}.{key}" for section, values in Settings() for key, _ in values]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _client_value(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _check_kafka_name(value: str) -> str:
    if not _KAFKA_NAME.match(value) or len(value) > 249 or value in (".", ".."):
        raise ValueError(
            f"{value!r} is not a name that Kafka allows; write 1 to 249 letters, digits, "
            "dots, hyphens or underscores"
        )
    return value


def _shown(settings: Settings) -> Iterator[tuple[str, str | int | None]]:
    for key in setting_keys():
        section, name = key.split(".")
        value = getattr(getattr(settings, section), name)
        if isinstance(value, dict):
            for client_key, item in value.items():
                yield f"{key}.{client_key}", MASK if isinstance(item, SecretStr) else item
        elif isinstance(value, list):
            yield key, json.dumps(value, default=str)
        else:
            yield key, MASK if isinstance(value, SecretStr) else value
