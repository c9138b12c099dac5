"""``make torture``: real workers on a real Kafka, killed, frozen, cut off and rebalanced."""
