from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from load.local_kafka import HOST, LocalKafka
from load.network import Proxy
from load.records import NewRecord, create_topics, produce, read_topic


class Echo(threading.Thread):
    """Sends back what it is sent, one connection at a time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    while data := connection.recv(65_536):
                        connection.sendall(data)
                except OSError:
                    pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    echo = Echo()
    echo.start()
    with Proxy() as proxy:
        proxy.forward_to(echo.port)
        yield proxy
    echo.close()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=10.0)


def echoed(connection: socket.socket, data: bytes) -> bytes:
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    received = b""
    while len(received) < len(data):
        received += connection.recv(65_536)
    sender.join()
    return received


def test_everything_passes_in_both_directions(proxy: Proxy) -> None:
    data = bytes(range(256)) * 10_000
    with connect(proxy) as connection:
        assert echoed(connection, data) == data
    assert proxy.connections == 1


def test_an_end_on_one_side_ends_the_other(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert echoed(connection, b"last") == b"last"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_a_cut_breaks_open_and_new_connections_until_it_is_mended(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert echoed(connection, b"before") == b"before"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert proxy.cut_connections == 1
    with pytest.raises(ConnectionResetError), connect(proxy) as refused:
        refused.recv(1)
    proxy.mend()
    with connect(proxy) as connection:
        assert echoed(connection, b"after") == b"after"


def test_what_is_held_up_arrives_once_mended(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert echoed(connection, b"before") == b"before"
        proxy.hold()
        connection.sendall(b"held")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.mend()
        connection.settimeout(10.0)
        assert connection.recv(4) == b"held"


def test_a_slow_network_has_latency_and_little_bandwidth(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        proxy.slow(latency_s=0.1, bytes_per_s=1_000_000)
        started_s = time.monotonic()
        assert echoed(connection, b"x") == b"x"
        assert time.monotonic() - started_s >= 0.2  # there and back
        started_s = time.monotonic()
        assert len(echoed(connection, b"x" * 500_000)) == 500_000
        assert time.monotonic() - started_s >= 0.5


@pytest.mark.kafka
def test_clients_of_a_brokers_second_listener_go_through_the_proxy() -> None:
    with Proxy() as proxy, LocalKafka(proxy_port=proxy.port) as kafka:
        proxy.forward_to(kafka.proxied_port)
        create_topics(kafka.bootstrap_servers, "passed", partitions=1)
        assert proxy.connections == 0
        produce(f"{HOST}:{proxy.port}", "passed", [NewRecord(b"through")])
        assert proxy.connections > 0
        assert [r.value for r in read_topic(kafka.bootstrap_servers, "passed")] == [b"through"]
