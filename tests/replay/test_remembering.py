from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.replay.remembering import RememberingModel


def test_the_same_inputs_are_put_to_the_model_once() -> None:
    asked = []

    def model(features: NDArray[np.float32]) -> NDArray[np.float32]:
        asked.append(len(features))
        return features.sum(axis=1)

    remembering = RememberingModel(model)
    inputs = np.arange(12, dtype=np.float32).reshape(4, 3)
    nearly = np.nextafter(inputs, np.float32(99), dtype=np.float32)
    for features in (inputs, nearly, inputs.copy(), inputs[:2]):
        assert np.array_equal(remembering(features), features.sum(axis=1))
    assert asked == [4, 4, 2]
