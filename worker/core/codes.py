"""A machine's own status and error codes as numbers that detection can follow.

A code counts by how rare it was in training: its surprisal, ``-log10`` of the share of events
that carried it (C. E. Shannon, "A Mathematical Theory of Communication", 1948, there with
base 2). An event without a code has none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Code = str | int


@dataclass(frozen=True)
class CodeBook:
    """What training saw of the channels of kind "event".

    Attributes:
        rows: number of events in training.
        counts: for each channel, in the specification's order, how many carried each code.
    """

    rows: int
    counts: tuple[Mapping[str, int], ...]

    @classmethod
    def learn(cls, rows: int, columns: Sequence[Sequence[Code | None]]) -> CodeBook:
        """Count the codes of training, column by column; None where an event has no code."""
        counts = tuple(Counter(str(code) for code in c if code is not None) for c in columns)
        return cls(rows, counts)

    def surprisals(
        self, columns: Sequence[Sequence[Code | None]], rows: int
    ) -> NDArray[np.float64]:
        """Numbers (rows, channels) for codes; 0 where there is none."""
        result = np.zeros((rows, len(self.counts)))
        for c, (codes, counts) in enumerate(zip(columns, self.counts, strict=True)):
            for i, code in enumerate(codes):
                if code is not None:
                    result[i, c] = math.log10((self.rows + 1) / max(counts.get(str(code), 0), 1))
        return result

    def seen(self, codes: Sequence[Code | None]) -> list[tuple[str, int] | None]:
        """One event's code on each channel, with how many events of training carried it."""
        return [
            None if code is None else (str(code), counts.get(str(code), 0))
            for code, counts in zip(codes, self.counts, strict=True)
        ]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The book as arrays, which :meth:`from_arrays` reads back."""
        entries = [(c, code, n) for c, book in enumerate(self.counts) for code, n in book.items()]
        return {
            "code_rows": np.array([self.rows, len(self.counts)], np.int64),
            "code_channels": np.array([c for c, _, _ in entries], np.int64),
            "code_texts": np.array([code for _, code, _ in entries], np.str_),
            "code_counts": np.array([n for _, _, n in entries], np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> CodeBook:
        """Make a book of what :meth:`to_arrays` gave; other arrays are ignored."""
        rows, channels = arrays["code_rows"].tolist()
        counts: tuple[dict[str, int], ...] = tuple({} for _ in range(channels))
        for c, code, n in zip(
            arrays["code_channels"].tolist(),
            arrays["code_texts"].tolist(),
            arrays["code_counts"].tolist(),
            strict=True,
        ):
            counts[c][code] = n
        return cls(rows, counts)
