"""The pure core: data in, data out.

Nothing below this package may import Faust, Kafka, Redis, or touch files, the
environment, clocks or unseeded randomness; time arrives as data. Live worker,
replay and tests all call :func:`worker.core.pipeline.Pipeline.step`.
"""
