"""Another service: applies every event of a shard's stream exactly once, in batches.

    pip install nats-py
    NATS_URL=nats://127.0.0.1:4222 python subscriber.py COUPONS-0 loyalty loyalty.db

NATS_URL, NATS_CA and NATS_CREDENTIALS are those of the service: several servers separated by commas, a PEM file of
certificate authorities, and a file of credentials (which needs `pip install nats-py[nkeys]`).

* One transaction holds the effects of a batch (here rows of a table) and the place of its last event. The batch is
  acknowledged after the commit. A kill before the commit undoes both, and a kill after it loses nothing.
* The place of an event is its epoch and position, compared together: a restored database repeats positions. An
  event whose place is not above the stored one is already applied, and is skipped.
* After a crash, NATS sends newer events before it resends the unacknowledged ones. So each session recreates its
  consumer at the last applied event, and counts the deliveries: whatever follows then comes in order.
* If the next event is missing, the subscriber stops, and prints how to fetch the missing events from a replay.
"""
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is as safe as any other kill, and prints nothing

import argparse
import asyncio
import contextlib
import json
import os
import re
import sqlite3
import ssl
import sys
import time
import urllib.parse

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

BATCH = 1_000  # events in one transaction: few fsyncs, and less than a megabyte
FETCH_WAIT = 2  # seconds until a fetch without events returns
ACK_WAIT = 5  # seconds until NATS resends what a broken connection lost
TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL; -- an acknowledged event must survive a power cut
CREATE TABLE IF NOT EXISTS coupons (id TEXT PRIMARY KEY, user TEXT NOT NULL);
-- The last applied event of each stream: its place, and its sequence in the stream, NULL if that is not known.
CREATE TABLE IF NOT EXISTS positions (
    stream TEXT PRIMARY KEY, epoch INTEGER NOT NULL, position INTEGER NOT NULL, sequence INTEGER);
"""


class StartOver(Exception):
    """Why a new session is needed."""


def say(*words):
    print(*words, flush=True)


def stored(db, stream):
    """Place and sequence of the last applied event."""
    row = db.execute("SELECT epoch, position, sequence FROM positions WHERE stream = ?", (stream,)).fetchone()
    return (row[:2], row[2]) if row else (None, None)


def read(message):
    """Place, type, id and coupon of an event. Raises an exception if the message is not an event of the service."""
    place = int(message.headers.get("Outbox-Epoch", 0)), int(message.headers["Outbox-Position"])
    event = json.loads(message.data)
    coupon = None
    if event["type"] == "coupon.issued.v1":
        coupon = str(event["data"]["coupon_id"]), str(event["data"]["user_id"])
    return place, event["type"], event["id"], coupon


def follows(place, last, joined, whole):
    """Whether no event lies between `last` and `place`. joined: the session began at `last` or before it."""
    if whole and place[0] == last[0]:
        return place[1] == last[1] + 1
    return joined and (not whole or place[1] <= last[1] + 1)  # an epoch begins at the next position or below it


def apply(db, args, messages, joined):
    """Applies the new events of a batch. Returns the last place, whether the session has joined what was applied
    earlier, and the place of an event that does not follow."""
    lines, gap = [], None
    with db:  # commits, or rolls back on an exception
        db.execute("BEGIN IMMEDIATE")
        last, sequence = stored(db, args.stream)
        for message in messages:
            if args.until and last and last[1] >= args.until:
                break
            try:
                place, kind, event, coupon = read(message)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                lines.append(f"ignored a message on {message.subject}, which is not an event: {error!r}")
                continue
            if last and place <= last:
                lines.append(f"skipped {place[1]} of epoch {place[0]}, which is already applied")
            elif last and not follows(place, last, joined, whole=not args.filter):
                gap = place
                break
            else:
                if coupon:  # in an epoch, an event has one position; a new epoch may deliver it again
                    insert = "INSERT OR IGNORE" if place[0] > 0 else "INSERT"
                    db.execute(f"{insert} INTO coupons (id, user) VALUES (?, ?)", coupon)
                lines.append(f"applied {place[1]} {kind} {event}")
                last = place
            joined, sequence = True, None if args.replay else message.metadata.sequence.stream
        if last:
            db.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)", (args.stream, *last, sequence))
    if lines:
        say("\n".join(lines))
    return last, joined, gap


def stop_at(gap, last, args):
    """Ends, and prints how to get what is missing."""
    told = f"gap: {gap[1]} comes after {last[1]} (epoch {gap[0]} after {last[0]})."
    if args.replay:
        sys.exit(f"{told} Begin the replay earlier; if it begins at the oldest event, the outbox has lost some.")
    run = f"gap-{int(time.time())}"
    since = f" --from {last[1]}" if gap[0] == last[0] else ""  # where an epoch begins is not known here
    sys.exit(f"{told} Fetch the events between, and start again:\n"
             f"  coupon replay --run {run}{since}\n  python {' '.join(sys.argv)} --replay {run}")


async def consumer(args, context, db):
    """The subscription of a new session, and the sequence that it begins with, or None."""
    last, sequence = stored(db, args.stream)
    stream, subjects = args.stream, args.filter
    if args.bind:
        info = await context.consumer_info(stream, args.durable)
        if info.config.max_ack_pending != 1:  # it cannot be recreated, so one event at a time is in flight
            sys.exit(f"consumer {args.durable} must have max_ack_pending 1")
        if last is None and info.ack_floor.consumer_seq > 0:
            sys.exit(f"consumer {args.durable} has delivered events that {args.database} lacks: recreate it")
        return await context.pull_subscribe_bind(args.durable, stream=stream), None
    if args.replay:
        name, _, shard = stream.rpartition("-")
        stream, sequence = f"{name}-REPLAY", None
        subjects = (subjects or f"coupons.*.*.{shard}").replace("coupons", f"replay.{args.replay}", 1)
    elif last is None and (first := (await context.stream_info(stream)).state.first_seq) > 1:
        say(f"{stream} begins at sequence {first}: a replay has the events before it")
    with contextlib.suppress(NotFoundError):
        await context.delete_consumer(stream, args.durable)
    start = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": sequence} if sequence else {}
    info = await context.add_consumer(stream, ConsumerConfig(
        durable_name=args.durable, filter_subject=subjects, ack_policy=AckPolicy.ALL, ack_wait=ACK_WAIT,
        max_ack_pending=4 * BATCH, **start))
    if args.replay and info.num_pending == 0:
        sys.exit(f"run {args.replay} has no events on {subjects}")
    return await context.pull_subscribe_bind(args.durable, stream=stream), sequence


async def session(args, db, context):
    """Applies batches until position `--until`, or to the end of a replay."""
    last, _ = stored(db, args.stream)
    say("starting after position", last[1] if last else 0)
    events, start = await consumer(args, context, db)
    joined, deliveries = args.bind, 0
    while not args.until or not last or last[1] < args.until:
        try:
            messages = await events.fetch(1 if args.bind else BATCH, timeout=FETCH_WAIT)
        except asyncio.TimeoutError:
            continue  # no new event, or not connected
        for message in messages:
            deliveries += 1
            if message.metadata.sequence.consumer != deliveries and not args.bind:
                raise StartOver("a delivery was lost")
        # Nothing lies before the first message of a whole stream.
        joined = joined or (messages[0].metadata.sequence.stream == 1 and not args.filter and not args.replay)
        last, joined, gap = apply(db, args, messages, joined)
        if gap and start and not joined:
            db.execute("UPDATE positions SET sequence = NULL WHERE stream = ?", (args.stream,))
            raise StartOver("the last applied event is not in the stream any more: reading from its beginning")
        if gap:
            stop_at(gap, last, args)
        if args.until and last and last[1] >= args.until:
            return  # what the batch has behind it stays unacknowledged
        await messages[-1].ack()  # and all before it
        if args.replay and messages[-1].metadata.num_pending == 0:
            return


def server_options():
    """Servers of NATS, the login, and which certificate authorities to trust, from the environment."""
    # A comma that no URL follows is part of a login.
    urls = re.split(r"\s*,\s*(?=\w+://)", os.environ.get("NATS_URL", "nats://127.0.0.1:4222").strip())
    parsed = [urllib.parse.urlsplit(url) for url in urls]
    if any(url.scheme not in ("nats", "tls") or not url.hostname or "," in url.netloc.split("@")[-1] for url in parsed):
        sys.exit("NATS_URL must be URLs that start with nats:// or tls://")
    options = {"servers": urls}
    for url in parsed:  # one login is used for all servers; a name without a password is a token
        if url.username and url.password is None:
            options["token"] = urllib.parse.unquote(url.username)
        elif url.username:
            options["user"] = urllib.parse.unquote(url.username)
            options["password"] = urllib.parse.unquote(url.password)
    if authorities := os.environ.get("NATS_CA"):
        try:
            options["tls"] = ssl.create_default_context(cafile=authorities)
        except OSError as error:
            sys.exit(f"NATS_CA names {authorities}, which cannot be read: {error}")
    if credentials := os.environ.get("NATS_CREDENTIALS"):
        options["user_credentials"] = credentials
    return options


async def subscribe(args, db):
    servers = server_options()

    async def report(error):
        say("connection:", str(error) or repr(error))

    while True:
        # Reconnects whenever the connection is lost, without limit.
        client = await nats.connect(**servers, max_reconnect_attempts=-1, error_cb=report)
        if "tls" in servers and not client._server_info.get("tls_required"):  # nats-py has spoken plain text then
            sys.exit("the server of NATS does not require TLS, and NATS_CA is set")
        try:
            await session(args, db, client.jetstream())
            return await client.drain()
        except (StartOver, nats.errors.Error) as error:
            say("starting over:", str(error) or repr(error))  # no stream yet, a lost consumer, …
            await client.close()
            await asyncio.sleep(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Applies each event of a stream exactly once.")
    parser.add_argument("stream", help="for example COUPONS-0")
    parser.add_argument("durable", help="name of the durable consumer, which no other process uses")
    parser.add_argument("database", help="file of the SQLite database")
    parser.add_argument("--filter", help="only events of this subject, for example coupons.issued.*.0")
    parser.add_argument("--bind", action="store_true", help="use a consumer that an administrator created")
    parser.add_argument("--until", type=int, help="end when this position is applied")
    parser.add_argument("--replay", help="read this run of `coupon replay` instead of the stream, to its end")
    options = parser.parse_args()
    database = sqlite3.connect(options.database, isolation_level=None)
    database.executescript(TABLES)
    asyncio.run(subscribe(options, database))
