"""A Faust transport on librdkafka: whole chunks in, one transaction out.

Who does what::

    Poller      one thread owns the consumer: fetches chunks, follows rebalances
    Consumer    what Faust sees of it: delivers chunks to agents, follows assignment
    Processor   one thread applies chunks to state and commits, in that order, alone
    Publisher   outputs, changelog rows and offsets, in one Kafka transaction
    take_over   restores what was assigned (restore.py), then lets it flow
    StateTable  the Faust table: what Faust sees of the state

The rule that makes it exactly-once: state, outputs and offsets change together or
not at all. They are committed at chunk boundaries only, by the processor's thread
only; after a failed commit nothing is applied any more, and the process ends.
"""
