"""Another service: takes every event of a shard's stream, and applies each exactly once.

    pip install nats-py
    NATS_URL=nats://127.0.0.1:4222 python subscriber.py COUPONS-0 loyalty loyalty.db --filter 'coupons.issued.*.0'

* The effect (here a table of who holds which coupon) and the position are one transaction, and the
  acknowledgement comes after its commit. Killed before the commit: nothing has happened, and the event
  comes again. Killed after it: the event comes again too, is not above the position, and is skipped.
* One event at a time (max_ack_pending=1). The server delivers new events before it delivers again what
  was not acknowledged: with two on their way, a subscriber that is killed would get the later one
  first, move its position, and then skip the earlier one for ever.
* The position is what the header says, not the stream's sequence. When the database had to be restored to
  an earlier time, positions go back and the epoch goes up, so the two are compared together.
"""
import argparse
import asyncio
import json
import os
import sqlite3
import sys

import nats
from nats.js.api import ConsumerConfig

ACK_WAIT = 2  # seconds, longer than a transaction takes; then the event is delivered again
TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL; -- what is committed survives a power cut, for it will be acknowledged
CREATE TABLE IF NOT EXISTS coupons (id TEXT PRIMARY KEY, user TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS positions (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, position INTEGER NOT NULL);
"""


def say(*words):
    print(*words, flush=True)


def apply(db, message, gapless):
    """Applies an event that is new, together with its position. Answers the position."""
    header = {name: int(message.headers.get(f"Outbox-{name}", 0)) for name in ("Shard", "Epoch", "Position")}
    shard, epoch, position = header.values()
    event = json.loads(message.data)
    with db:  # commits, or rolls back when anything is raised
        db.execute("BEGIN IMMEDIATE")  # two that share a database take turns
        last = db.execute("SELECT epoch, position FROM positions WHERE shard = ?", (shard,)).fetchone()
        if last and (epoch, position) <= last:
            say("skipped", position, "of epoch", epoch, "which is applied already")
            return position
        if gapless and last and epoch == last[0] and position != last[1] + 1:
            sys.exit(f"gap: {position} comes after {last[1]}. Ask for a replay of what is between.")
        if event["type"] == "coupon.issued.v1":
            # Within an epoch an event comes under one position only; a new epoch may tell it again.
            insert = "INSERT OR IGNORE" if epoch > 0 else "INSERT"
            row = (event["data"]["coupon_id"], event["data"]["user_id"])
            db.execute(f"{insert} INTO coupons (id, user) VALUES (?, ?)", row)
        db.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (shard, epoch, position))
    say("applied", position, event["type"], event["id"])
    return position


async def subscribe(args, db):
    """Ends when position `--until` is applied."""
    position, = db.execute("SELECT coalesce(max(position), 0) FROM positions").fetchone()
    say("goes on behind position", position)
    # Connects again whenever the connection is lost, for as long as it takes.
    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)
    stream = client.jetstream()
    events = await stream.pull_subscribe_bind(args.durable, stream=args.stream)
    config = ConsumerConfig(
        durable_name=args.durable, filter_subject=args.filter, ack_wait=ACK_WAIT, max_ack_pending=1)
    made = args.bind
    while args.until is None or position < args.until:
        try:
            if not made:
                made = await stream.add_consumer(args.stream, config)
            [event] = await events.fetch(1, timeout=2)
            position = apply(db, event, gapless=not args.filter)
            await event.ack()
        except asyncio.TimeoutError:
            continue  # nothing new, or not connected
        except nats.errors.Error as error:
            say("begins anew:", repr(error))  # there is no stream yet, the consumer was lost, …
            made = args.bind
            await asyncio.sleep(1)
    await client.drain()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Applies each event of a stream exactly once.")
    parser.add_argument("stream", help="for example COUPONS-0")
    parser.add_argument("durable", help="name of the durable consumer")
    parser.add_argument("database", help="file of the SQLite database")
    parser.add_argument("--filter", help="only events of this subject, for example coupons.issued.*.0")
    parser.add_argument("--bind", action="store_true", help="the consumer is there, made by somebody who may")
    parser.add_argument("--until", type=int, help="end when this position is applied")
    args = parser.parse_args()
    database = sqlite3.connect(args.database, isolation_level=None)
    database.executescript(TABLES)
    asyncio.run(subscribe(args, database))
