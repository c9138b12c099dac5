"""From fetched messages to chunks."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.transport import delivery
from worker.transport.delivery import chunks_by_partition

SMALL_BYTES = 100


def message(partition: int, offset: int, key: bytes | None, value: bytes | None) -> Any:
    return SimpleNamespace(
        partition=lambda: partition,
        offset=lambda: offset,
        timestamp=lambda: (1, offset * 10),
        key=lambda: key,
        value=lambda: value,
    )


RECORDS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.none() | st.binary(max_size=40),
        st.none() | st.binary(max_size=250),
    ),
    max_size=60,
)


@given(RECORDS)
def test_chunks_hold_every_record_in_order_and_few_bytes_or_one_record(
    records: list[tuple[int, bytes | None, bytes | None]],
) -> None:
    messages = [message(p, offset, k, v) for offset, (p, k, v) in enumerate(records)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "MAX_CHUNK_BYTES", SMALL_BYTES)
        chunks = list(chunks_by_partition("events", messages))
    found = [
        (chunk.partition, offset, time_ms, key, value)
        for chunk in chunks
        for offset, time_ms, key, value in zip(
            chunk.offsets.tolist(),
            chunk.timestamps_ms.tolist(),
            chunk.keys,
            chunk.values,
            strict=True,
        )
    ]
    expected = [(p, offset, 10 * offset, k, v) for offset, (p, k, v) in enumerate(records)]
    for partition in range(3):
        assert [r for r in found if r[0] == partition] == [r for r in expected if r[0] == partition]
    for chunk in chunks:
        size_bytes = sum(len(part or b"") for part in [*chunk.keys, *chunk.values])
        assert len(chunk) == 1 or size_bytes <= SMALL_BYTES
    for first, second in itertools.pairwise(chunks):
        if first.partition == second.partition:  # cut only where it had to be
            more = len(second.keys[0] or b"") + len(second.values[0] or b"")
            assert more + sum(len(x or b"") for x in [*first.keys, *first.values]) > SMALL_BYTES
