"""Another service: takes every event of a shard's stream, and applies each exactly once.

    pip install nats-py
    NATS_URL=nats://127.0.0.1:4222 python subscriber.py COUPONS-0 loyalty loyalty.db --filter 'coupons.issued.*.0'

* One transaction holds the effect (here a table of coupons and their users) and the position. The event is
  acknowledged after the commit. A kill before the commit undoes both, and NATS sends the event again. A kill
  after it: NATS sends the event again too; its position is not higher than the stored one, so it is skipped.
* One event is in flight at a time (max_ack_pending=1). After a crash, NATS sends new events before it resends
  the unacknowledged one: with two in flight, the later one would be applied and the earlier one skipped.
* Epoch and position come from the headers and are compared together: a restored database repeats positions.
"""
import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import sys

import nats
from nats.js.api import ConsumerConfig

ACK_WAIT = 2  # seconds until NATS sends an event again; longer than a transaction takes
TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL; -- an acknowledged event must survive a power cut
CREATE TABLE IF NOT EXISTS coupons (id TEXT PRIMARY KEY, user TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS positions (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, position INTEGER NOT NULL);
"""


def say(*words):
    print(*words, flush=True)


def apply(db, message, gapless):
    """Applies an event that is new, and stores its position. Returns the position."""
    header = {name: int(message.headers.get(f"Outbox-{name}", 0)) for name in ("Shard", "Epoch", "Position")}
    shard, epoch, position = header.values()
    event = json.loads(message.data)
    with db:  # commits, or rolls back on an exception
        db.execute("BEGIN IMMEDIATE")  # two subscribers of one database take turns
        last = db.execute("SELECT epoch, position FROM positions WHERE shard = ?", (shard,)).fetchone()
        if last and (epoch, position) <= last:
            say("skipped", position, "of epoch", epoch, "which is already applied")
            return position
        if gapless and last and epoch == last[0] and position != last[1] + 1:
            sys.exit(f"gap: {position} comes after {last[1]}. Ask for a replay of the events between them.")
        if event["type"] == "coupon.issued.v1":
            # Within an epoch an event has one position; a new epoch may deliver it again.
            insert = "INSERT OR IGNORE" if epoch > 0 else "INSERT"
            row = (event["data"]["coupon_id"], event["data"]["user_id"])
            db.execute(f"{insert} INTO coupons (id, user) VALUES (?, ?)", row)
        db.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (shard, epoch, position))
    say("applied", position, event["type"], event["id"])
    return position


async def subscribe(args, db):
    """Returns when position `--until` is applied."""
    position, = db.execute("SELECT coalesce(max(position), 0) FROM positions").fetchone()
    say("starting after position", position)
    # Reconnects whenever the connection is lost, without limit.
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
            continue  # no new event, or not connected
        except nats.errors.Error as error:
            say("starting over:", repr(error))  # no stream yet, a lost consumer, …
            made = args.bind
            await asyncio.sleep(1)
    await client.drain()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Applies each event of a stream exactly once.")
    parser.add_argument("stream", help="for example COUPONS-0")
    parser.add_argument("durable", help="name of the durable consumer")
    parser.add_argument("database", help="file of the SQLite database")
    parser.add_argument("--filter", help="only events of this subject, for example coupons.issued.*.0")
    parser.add_argument("--bind", action="store_true", help="use a consumer that an administrator created")
    parser.add_argument("--until", type=int, help="end when this position is applied")
    args = parser.parse_args()
    database = sqlite3.connect(args.database, isolation_level=None)
    database.executescript(TABLES)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(subscribe(args, database))
