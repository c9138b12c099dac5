"""A group member that dies as it is told to give partitions up: arguments are client settings."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from confluent_kafka import Consumer


def die(*_: Any) -> None:
    os._exit(9)


def main() -> None:
    config, topic = json.loads(sys.argv[1]), sys.argv[2]
    consumer = Consumer(config)
    consumer.subscribe([topic], on_revoke=die)
    while True:
        consumer.poll(0.1)
        if consumer.assignment():
            print("assigned", flush=True)


if __name__ == "__main__":
    main()
