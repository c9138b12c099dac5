"""DriftDetector: a streaming worker that scores sensor telemetry from Kafka."""

__version__ = "0.1.0"
