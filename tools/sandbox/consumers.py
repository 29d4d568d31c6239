# SPDX-License-Identifier: Apache-2.0
"""Wait for RPC servers: consumers.py SECONDS BROKER_PORT QUEUE... (run by the venv's python).

A service that takes RPC has started when its queue has a consumer, not when its process is there:
what is sent earlier is lost. Ends with 0 once every QUEUE has one; prints those it waits for and
ends with 1 if SECONDS were not enough.
"""

from __future__ import annotations

import sys
import time

import amqp


def has_consumer(connection: amqp.Connection, queue: str) -> bool:
    """Whether somebody takes messages from `queue`."""
    # Asking for a queue that is not there closes the channel: a new one for every question.
    channel = connection.channel()
    try:
        return bool(channel.queue_declare(queue, passive=True).consumer_count)
    except amqp.exceptions.NotFound:
        return False
    finally:
        channel.close()


def main() -> int:
    seconds, port, waiting = float(sys.argv[1]), sys.argv[2], set(sys.argv[3:])
    end = time.monotonic() + seconds
    with amqp.Connection(f"127.0.0.1:{port}", connect_timeout=10) as connection:
        while waiting:
            waiting = {queue for queue in waiting if not has_consumer(connection, queue)}
            if waiting and time.monotonic() > end:
                print("no consumer of " + ", ".join(sorted(waiting)))
                return 1
            time.sleep(0.2 if waiting else 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
