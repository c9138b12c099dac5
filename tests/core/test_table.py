from __future__ import annotations

import numpy as np

from worker.core.table import Field, MachineTable

FIELDS = {
    "count": Field("<u4"),
    "level": Field("<f8", ("signal",), initial=-1.0),
    "runs": Field("<u2", ("channel", 3)),
}


def table(capacity: int = 4) -> MachineTable:
    return MachineTable(FIELDS, {"channel": 2, "signal": 5}, capacity)


def filled() -> MachineTable:
    made = table()
    made.reset(np.arange(4))
    made["count"][:] = [1, 2, 3, 4]
    made["level"][2] = np.arange(5) / 3.0
    made["runs"][3, 1, 2] = 65_535
    return made


def test_every_field_is_an_array_of_its_shape() -> None:
    made = table()
    assert made["count"].shape == (4,)
    assert made["level"].shape == (4, 5)
    assert made["runs"].shape == (4, 2, 3)
    assert made.dtype.itemsize == 4 + 5 * 8 + 6 * 2


def test_a_row_that_is_reset_holds_initial_values_and_others_keep_theirs() -> None:
    made = filled()
    made.reset(np.array([2]))
    assert made["level"][2].tolist() == [-1.0] * 5
    assert made["count"].tolist() == [1, 2, 0, 4]


def test_what_is_packed_loads_into_other_rows_bit_for_bit() -> None:
    made, other = filled(), table()
    records = made.records(np.array([3, 2]))
    other.load(np.array([0, 1]), records)
    assert other.records(np.array([0, 1])).tobytes() == records.tobytes()
    assert other["runs"][0, 1, 2] == 65_535


def test_growing_keeps_what_is_there() -> None:
    made = filled()
    made.grow(9)
    assert len(made) == 9
    assert made["level"][2, 1] == 1 / 3.0
