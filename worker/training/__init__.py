"""Training of bundles: from readings to ``model.onnx`` and ``model.toml``."""
