"""``driftdetector demo``: simulated machines, Kafka and the real worker in one process.

::

    cluster   the embedded broker or a real one, with topics of the run's own
    gateway   a thread that publishes the simulator's events
    results   a thread that reads the worker's output topics, as any consumer would
    counters  the worker's metrics
    view      what there is to see, from the two above and the worker's metrics
    screen    how it looks on a terminal, and as one line in a log
    report    the end: figures, their check, the summary table
    session   one run from start to end

What is shown can be read from Kafka or from ``/metrics``: nothing is taken from inside
the worker.
"""
