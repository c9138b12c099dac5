"""Training of bundles: from readings to ``model.onnx`` and ``model.toml``."""

CONTAMINATION = 0.001
"""Share of the training readings that a bundle flags unless told otherwise."""
