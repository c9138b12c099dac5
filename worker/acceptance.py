"""Telling the drift agent, on its own input, that a change is accepted.

Owns what there is to accept, which the drift events say.
"""

from __future__ import annotations

import msgspec

from worker.cluster import Cluster
from worker.core.messages import DriftAcceptance, DriftEvent, Origin, encode
from worker.core.outgoing import partition_of
from worker.notices import publish_one


def features_of_open_events(cluster: Cluster, group: str) -> set[str] | None:
    """The features of a group's events that are open; None: no event is.

    Raises:
        TopicError: there is no such topic yet.
        BrokerError: Kafka does not answer.
    """
    topic = cluster.settings.topics.drift_events
    latest: dict[str, DriftEvent] = {}
    for records in cluster.read(topic, cluster.ranges(topic)):
        for record in records:
            if record.key != group.encode() or not record.value:
                continue
            event = msgspec.json.decode(record.value, type=DriftEvent)
            latest[event.id] = event
    opened = [event for event in latest.values() if event.status != "closed"]
    if not opened:
        return None
    return {one.feature for event in opened for one in event.features}


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
