"""The command line: each command group in its own module with ``register(app)``.

Heavy imports (Faust, onnxruntime, scikit-learn, confluent-kafka) belong inside the
command functions, so that ``driftdetector --help`` answers at once.
"""
