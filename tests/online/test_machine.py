from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from tests.support.online import machine
from worker.core.channels import spec_from_dict
from worker.online.machine import decode_machine, encode_machine, known

SPEC = spec_from_dict(
    {
        "name": "made-up",
        "window": {"length": "1h", "pane": "1m", "grace": "1m", "max_future": "5m"},
        "channel": [{"name": "speed", "unit": "rpm"}, {"name": "torque", "unit": "Nm"}],
    }
)


@given(st.binary(max_size=50), st.floats(-1.0, 1.0), st.text(min_size=1, max_size=20))
def test_a_machine_is_read_back_as_it_was_written(state: bytes, score: float, name: str) -> None:
    written = machine(name, score, state)
    assert decode_machine(encode_machine(written)) == written


def test_the_document_is_plain_json_with_the_row_in_base64() -> None:
    document = json.loads(encode_machine(machine()))
    assert base64.b64decode(document["state"]) == b"\x00\xff"
    assert document["values"] == {"torque": 40.1, "speed": None}
    assert document["windows"]["speed"]["mean"] is None


def test_what_is_no_machine_is_not_read() -> None:
    for document in (b"", b"\xff", b"{}", b"[]", encode_machine(machine())[:-1]):
        assert decode_machine(document) is None


def test_what_is_known_is_in_the_order_of_the_channels() -> None:
    found = known(SPEC, machine())
    assert found is not None
    assert found.aggregates[1].tolist() == [3.0, 40.0, 0.1, 39.9, 40.1]
    assert found.aggregates[0].tolist() == [0.0, 0.0, 0.0, float("inf"), float("-inf")]
    assert found.time_us == 1_772_431_200_250_000
    assert found.row == b"\x00\xff"


def test_a_machine_of_other_channels_is_not_known() -> None:
    other = spec_from_dict(
        {"name": "other", "channel": [{"name": "flow", "unit": "l/s"}]}
        | {"window": {"length": "1h", "pane": "1m", "grace": "1m", "max_future": "5m"}}
    )
    assert known(other, machine()) is None
