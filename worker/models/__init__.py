"""Model bundles on disk: their manifest, the checks at load, the ONNX session."""
