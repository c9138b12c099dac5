"""What became of transactions, as the broker's own log of them tells.

`__transaction_state` has a record for every change of a transactional id: its producer
id and epoch (which every new process raises), and whether a transaction has begun, is
committed or aborted. Layout: TransactionLogKey.json and TransactionLogValue.json of Apache Kafka.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from confluent_kafka import Consumer, TopicPartition

from load.records import QUIET, iterate_topic

TOPIC = "__transaction_state"
_STATES = {
    0: "empty",
    1: "ongoing",
    2: "committing",
    3: "aborting",
    4: "committed",
    5: "aborted",
    6: "dead",
    7: "fencing",
}
_KEY = struct.Struct(">hh")  # version, length of the transactional id
_VALUE = struct.Struct(">hqhib")  # version, producer id, epoch, timeout in ms, state


class Transaction(NamedTuple):
    """One change of a transactional id; ``epoch`` is that of the process that used it."""

    transactional_id: str
    epoch: int
    state: str


def ends(brokers: str, timeout_s: float = 30.0) -> dict[int, int]:
    """Where the log ends now, by partition."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "transactions"}, logger=QUIET)
    try:
        partitions = consumer.list_topics(TOPIC, timeout=timeout_s).topics[TOPIC].partitions
        return {
            number: consumer.get_watermark_offsets(TopicPartition(TOPIC, number), timeout_s)[1]
            for number in partitions
        }
    finally:
        consumer.close()


def changes(brokers: str, since: Mapping[int, int] | None = None) -> Iterator[Transaction]:
    """Changes of transactional ids, those of one id in order.

    Args:
        since: offsets by partition, as of :func:`ends`; None: from the beginning.
    """
    for record in iterate_topic(brokers, TOPIC, starts=since):
        if record.key is None or record.value is None:
            continue
        _, length = _KEY.unpack_from(record.key)
        _, _, epoch, _, state = _VALUE.unpack_from(record.value)
        name = record.key[_KEY.size : _KEY.size + length].decode()
        yield Transaction(name, epoch, _STATES[state])


def epoch_of(brokers: str, transactional_id: str) -> int:
    """The epoch that an id was used with last; -1: never."""
    epoch = -1
    for change in changes(brokers):
        if change.transactional_id == transactional_id:
            epoch = change.epoch
    return epoch


def count(brokers: str, prefix: str) -> Counter[str]:
    """How often transactional ids that begin with ``prefix`` reached each state."""
    return Counter(c.state for c in changes(brokers) if c.transactional_id.startswith(prefix))
