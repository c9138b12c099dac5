from __future__ import annotations

import math

import numpy as np

from worker.core.codes import CodeBook

BOOK = CodeBook.learn(99, [["run"] * 90 + [None] * 8 + ["E7"], [5] * 10])


def test_a_code_counts_by_how_rare_it_was() -> None:
    found = BOOK.surprisals([["run", "E7", None], [None, 5, None]], rows=3)
    assert found[:, 0].tolist() == [math.log10(100 / 90), 2.0, 0.0]
    assert found[:, 1].tolist() == [0.0, 1.0, 0.0]


def test_a_code_never_seen_counts_as_one_seen_once() -> None:
    assert BOOK.surprisals([["E9"], ["5"]], rows=1).tolist() == [[2.0, 1.0]]


def test_a_book_is_read_back_from_its_arrays() -> None:
    copy = CodeBook.from_arrays(BOOK.to_arrays())
    columns = [["run", "E7", "x"], [5, 6, None]]
    assert np.array_equal(copy.surprisals(columns, 3), BOOK.surprisals(columns, 3))
    assert CodeBook.from_arrays(CodeBook.learn(5, []).to_arrays()).surprisals([], 2).shape == (2, 0)
