"""Workers and a broker in one thread, under a virtual clock, where one seed decides everything.

What runs is the worker's own code: Poller, Processor, Publisher, take_over, restore and
Pipeline. Each of its threads becomes a task here that hands over wherever it would wait.

    scheduler  virtual time, tasks, and processes that can be stopped or killed anywhere
    threads    what the worker's modules use of threading, queue and time, on the scheduler
    broker     partition logs, transactions, compaction      group   the group coordinator
    network    requests between clients and broker, and what goes wrong on the way
    producer, consumer  librdkafka's clients, as far as the transport uses them
    program    one worker process: what Faust and the app do around the transport
    faults     what a seed lets go wrong       inputs  the events it publishes
    checks     what must hold, after every step and in the end
    world      one seed from beginning to end
"""
