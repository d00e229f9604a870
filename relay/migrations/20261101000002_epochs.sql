-- Epochs: where a shard's positions and the sequences of its stream are tied together anew, because the
-- database was restored to an earlier time, or the stream was lost when the outbox no longer held all.
--
-- From `first_position` on, until the next epoch begins, the event at a position is the message at
-- sequence `first_sequence + position - first_position`. Epoch 0 has no row: position 1, sequence 1.

CREATE TABLE outbox_epochs (
    shard          smallint    NOT NULL,
    epoch          integer     NOT NULL,
    first_position bigint      NOT NULL,
    first_sequence bigint      NOT NULL,
    reason         text        NOT NULL, -- what had stopped the relay
    began_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT outbox_epochs_pkey PRIMARY KEY (shard, epoch),
    CONSTRAINT outbox_epochs_start_at_one CHECK (epoch >= 1 AND first_position >= 1 AND first_sequence >= 1)
);
