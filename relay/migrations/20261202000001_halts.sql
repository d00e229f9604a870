-- Why the relay of a shard has stopped. It writes its row when it stops and deletes it when it continues, so that every
-- process, and an operator, can read it.

CREATE TABLE outbox_halts (
    shard  smallint    NOT NULL,
    reason text        NOT NULL,
    since  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT outbox_halts_pkey PRIMARY KEY (shard)
);
