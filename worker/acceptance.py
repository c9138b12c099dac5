"""Telling the drift agent, on its own input, that a change is accepted."""

from __future__ import annotations

from worker.core.messages import DriftAcceptance, Origin, encode
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
