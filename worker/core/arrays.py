"""Memory for arrays that grow."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def zeros_on_demand(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array whose memory is taken when it is first written, and given back with the array.

    NumPy's own goes through an allocator that keeps what growing arrays leave behind, which
    took half as much memory again.
    """
    size = math.prod(shape)
    if size == 0:
        return np.zeros(shape, dtype)
    memory = mmap.mmap(
        -1, size * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    return np.frombuffer(memory, dtype, size).reshape(shape)
