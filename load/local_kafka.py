"""A real, single-node Apache Kafka on this machine, for tests, benchmarks and `make kafka`.

Owns one JVM process and its data folder. The jars come from Maven (`make kafka-jars`); nothing
is downloaded here. The broker listens on 127.0.0.1 only; load/kafka/server.properties suits a
test machine: one copy of everything, small internal topics, short waits.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

HOST = "127.0.0.1"
CHECKOUT = Path(__file__).resolve().parent.parent
LIBS = CHECKOUT / "build" / "kafka" / "libs"
SERVER_PROPERTIES = CHECKOUT / "load" / "kafka" / "server.properties"
LOG4J_CONFIG = CHECKOUT / "load" / "kafka" / "log4j2.properties"
# Any valid id does: a data folder belongs to one broker and never meets another cluster.
CLUSTER_ID = "ZHJpZnRkZXRlY3RvcjAwMQ"
OLDEST_JAVA = 17
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
# Below the range that the kernel hands out to outgoing connections (32768 and up): a client that
# keeps dialling a stopped broker could otherwise be given that very port and block the restart.
PORTS = range(20_000, 32_000)
PORT_TAKEN = "Address already in use"
MAX_MESSAGE_BYTES = 12 * 1024 * 1024


class LocalKafkaError(RuntimeError):
    """The local broker did not start, or stopped by itself."""


class LocalKafkaMissingError(LocalKafkaError):
    """Java or Kafka's jars are not on this machine."""


def find_java() -> Path:
    """Return the `java` of ``JAVA_HOME`` or else of ``PATH``.

    Raises:
        LocalKafkaMissingError: there is none, or it is older than Java 17.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    found = found or shutil.which("java")
    if found is None:
        raise LocalKafkaMissingError(
            "Java is not installed: Apache Kafka needs Java 17 or newer, "
            "on Debian apt-get install default-jre-headless."
        )
    banner = subprocess.run(
        [found, "-version"], capture_output=True, text=True, timeout=30, check=False
    ).stderr
    release = re.search(r'version "(\d+)', banner)
    if release is None or int(release.group(1)) < OLDEST_JAVA:
        raise LocalKafkaMissingError(
            f"{found} is not Java {OLDEST_JAVA} or newer, which Apache Kafka needs; "
            "set JAVA_HOME or install default-jre-headless."
        )
    return Path(found)


def find_version() -> str:
    """Return the version of the Kafka in build/kafka/libs, such as ``4.1.1``.

    Raises:
        LocalKafkaMissingError: the jars have not been fetched.
    """
    for jar in sorted(LIBS.glob("kafka-server-[0-9]*.jar")):
        if (LIBS / ".complete").exists():
            return jar.stem.removeprefix("kafka-server-")
    raise LocalKafkaMissingError("Apache Kafka's jars are not in build/kafka/libs: make kafka-jars")


def free_port() -> int:
    """Return a port on 127.0.0.1 that nothing listens on and outgoing connections do not get."""
    for _ in range(200):
        port = random.choice(PORTS)
        if _is_free(port):
            return port
    raise LocalKafkaError(f"No free port found between {PORTS.start} and {PORTS.stop}.")


class LocalKafka:
    """One Apache Kafka process with its data; a context manager that starts and stops it.

    The broker ends with the thread that started it, so that a killed test run leaves no JVM.

    Args:
        data: folder for configuration, log file and topics, kept when the broker stops; by
            default a temporary one that is removed on leaving the context.
        port: the port to listen on; by default a free one, the same after every restart.
        heap_mb: the JVM's heap in MiB; 512 serves tests, benchmarks take 1024.
        proxy_port: opens a second listener, on ``proxied_port``, that tells its clients to
            come to this port: where a proxy listens that forwards to it.
        overrides: server properties instead of those of load/kafka/server.properties.
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        port: int | None = None,
        heap_mb: int = 512,
        proxy_port: int | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        self._temporary = None if data else tempfile.TemporaryDirectory(prefix="local-kafka-")
        self.data = Path(data or self._temporary.name).resolve()  # type: ignore[union-attr]
        self.log_path = self.data / "kafka.log"
        self.version = find_version()
        self._java = find_java()
        self._wanted_port = port
        self._heap_mb = heap_mb
        self._proxy_port = proxy_port
        self._overrides = dict(overrides or {})
        self._ports: tuple[int, int, int] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients, ``127.0.0.1:PORT``; fixed from the first start on."""
        if self._ports is None:
            raise LocalKafkaError("The local broker was never started.")
        return f"{HOST}:{self._ports[0]}"

    @property
    def proxied_port(self) -> int:
        """Port of the listener that sends its clients to ``proxy_port``."""
        if self._ports is None:
            raise LocalKafkaError("The local broker was never started.")
        return self._ports[2]

    @property
    def pid(self) -> int | None:
        """Process id of the running broker, else None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> Self:
        """Start the broker and return once it answers.

        Raises:
            LocalKafkaError: the wanted port is taken, or the broker ended or did not answer
                in a minute; the message ends with the last lines of its log.
        """
        if self.pid is not None:
            return self
        if (
            self._ports is None
            and self._wanted_port is not None
            and not _is_free(self._wanted_port)
        ):
            raise LocalKafkaError(
                f"Port {self._wanted_port} on {HOST} is taken: stop what listens there, "
                "or choose another with --port."
            )
        self.data.mkdir(parents=True, exist_ok=True)
        chosen = self._ports
        for attempts_left in (2, 1, 0):
            self._ports = chosen or (
                self._wanted_port or free_port(),
                free_port(),
                free_port(),
            )
            try:
                self._start_once()
            except LocalKafkaError as error:
                self.kill()
                # Another process may have taken a free port between our look and Kafka's bind.
                if chosen or not attempts_left or PORT_TAKEN not in str(error):
                    raise
            else:
                break
        return self

    def stop(self) -> None:
        """Stop the broker with SIGTERM, after 20 s with SIGKILL; its data stays."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End the broker at once with SIGKILL, as a power failure would; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop the broker in order and start it again on the same port and data."""
        self.stop()
        self.start()

    def wait_until_it_ends(self, stop: threading.Event) -> None:
        """Return when `stop` is set.

        Raises:
            LocalKafkaError: the broker ended by itself.
        """
        while not stop.wait(0.2):
            if self.pid is None:
                raise LocalKafkaError(f"Kafka ended by itself; its log ends with:\n{self._tail()}")

    def __enter__(self) -> Self:
        """Start the broker."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the broker and remove its data if they were temporary."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _start_once(self) -> None:
        assert self._ports is not None
        port, controller_port, _ = self._ports
        config = self.data / "server.properties"
        topics = self.data / "topics"
        config.write_text(
            SERVER_PROPERTIES.read_text(encoding="utf-8").format(
                host=HOST,
                port=port,
                controller_port=controller_port,
                log_dirs=topics,
                max_message_bytes=MAX_MESSAGE_BYTES,
            )
            # Of a property that is written twice, Java takes the second.
            + "".join(f"{key}={value}\n" for key, value in self._own_properties().items()),
            encoding="utf-8",
        )
        if not (topics / "meta.properties").exists():
            self._format(config)
        # util-linux's setpriv lets the kernel stop the broker when whoever started it is killed.
        setpriv = shutil.which("setpriv")
        guard = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        with self.log_path.open("ab") as log:
            start_of_this_run = log.tell()
            self._process = subprocess.Popen(
                [
                    *guard,
                    *self._jvm(f"-Xms{self._heap_mb // 2}m", f"-Xmx{self._heap_mb}m"),
                    "kafka.Kafka",
                    str(config),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the whole process group; the broker is stopped by us, in order.
                start_new_session=True,
            )
        self._wait_until_it_answers(start_of_this_run)

    def _own_properties(self) -> dict[str, str]:
        assert self._ports is not None
        if self._proxy_port is None:
            return self._overrides
        port, controller_port, proxied_port = self._ports
        open_to_clients = f"PLAINTEXT://{HOST}:{port},PROXIED://{HOST}"
        protocols = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT"
        return {
            "listeners": f"{open_to_clients}:{proxied_port},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": f"{open_to_clients}:{self._proxy_port}",
            "listener.security.protocol.map": protocols,
            **self._overrides,
        }

    def _jvm(self, *options: str) -> list[str]:
        return [
            str(self._java),
            *options,
            f"-Dlog4j2.configurationFile={LOG4J_CONFIG}",
            "-cp",
            f"{LIBS}/*",
        ]

    def _format(self, config: Path) -> None:
        """Write the empty cluster's metadata, as Kafka wants before its first start."""
        done = subprocess.run(
            [
                *self._jvm("-Xmx128m", "-XX:TieredStopAtLevel=1"),
                "kafka.tools.StorageTool",
                *("format", "-t", CLUSTER_ID, "-c", str(config)),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise LocalKafkaError(
                f"Kafka could not format {self.data}:\n{done.stdout}{done.stderr}"
            )

    def _wait_until_it_answers(self, log_start: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.pid is None:
                raise LocalKafkaError(
                    f"Kafka ended while starting; its log ends with:\n{self._tail(log_start)}"
                )
            if _accepts(self._ports[0]) and _answers(self.bootstrap_servers):  # type: ignore[index]
                return
            time.sleep(0.05)
        raise LocalKafkaError(
            f"Kafka did not answer on {self.bootstrap_servers} within {START_TIMEOUT_S:.0f} s; "
            f"its log ends with:\n{self._tail(log_start)}"
        )

    def _tail(self, start: int = 0, lines: int = 15) -> str:
        with self.log_path.open("rb") as log:
            log.seek(start)
            text = log.read().decode(errors="replace")
        # Java's stack frames say nothing to someone who only wants a broker.
        kept = [line for line in text.splitlines() if not line.startswith("\tat ")]
        return "\n".join(kept[-lines:])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As Java does: a port that only has old connections in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _answers(bootstrap_servers: str) -> bool:
    """Tell whether the broker names itself in its metadata, so that topics can be created."""
    # Without a logger of ours librdkafka prints every refused connection.
    quiet = logging.getLogger("load.local_kafka.probe")
    quiet.setLevel(logging.CRITICAL)
    admin = AdminClient(
        {"bootstrap.servers": bootstrap_servers, "socket.timeout.ms": 2000}, logger=quiet
    )
    try:
        return bool(admin.list_topics(timeout=2.0).brokers)
    except KafkaException:
        return False


def main(arguments: list[str] | None = None) -> int:
    """Run a broker in the foreground until Ctrl-C or SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="make kafka", description="Run a local Apache Kafka until Ctrl-C."
    )
    parser.add_argument("--port", type=int, default=9092, help="port on 127.0.0.1 (9092)")
    parser.add_argument(
        "--data", type=Path, help="folder that keeps topics between runs (a temporary one)"
    )
    parser.add_argument("--heap-mb", type=int, default=512, help="the JVM's heap in MiB (512)")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with LocalKafka(options.data, port=options.port, heap_mb=options.heap_mb) as kafka:
            print(
                f"Apache Kafka {kafka.version} answers on {kafka.bootstrap_servers}; "
                f"its log is {kafka.log_path}. Ctrl-C stops it.",
                flush=True,
            )
            kafka.wait_until_it_ends(stop)
    except LocalKafkaError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
