"""Telling the drift agent, on its own input, that a change is accepted; whether there is one."""

from __future__ import annotations

import msgspec

from worker.core.messages import DriftAcceptance, DriftEvent, Origin, encode
from worker.core.outgoing import partition_of
from worker.letters.records import Cluster
from worker.notices import publish_one


def publish_acceptance(cluster: Cluster, acceptance: DriftAcceptance) -> Origin:
    """Publish it where the partials of its group are; returns where that is.

    Raises:
        TopicError: there is no such topic yet.
        BrokerError: Kafka does not take it within half a minute.
    """
    topic = cluster.settings.partials_topic
    partitions = len(cluster.partitions(topic))
    key = acceptance.group.encode()
    return publish_one(cluster, topic, partition_of(key, partitions), key, encode(acceptance))


def has_open_event(cluster: Cluster, group: str) -> bool:
    """Whether ``drift-events`` tells of an event of a group that is open.

    Raises:
        BrokerError: the brokers do not answer, or refuse.
    """
    topic = cluster.settings.topics.drift_events
    if not cluster.has(topic):
        return False
    key, statuses = group.encode(), {}
    for records in cluster.read(topic, cluster.ranges(topic)):
        for record in records:
            if record.key == key and record.value:
                event = msgspec.json.decode(record.value, type=DriftEvent)
                statuses[event.id] = event.status
    return any(status != "closed" for status in statuses.values())
