-- Runs of replay: what was selected, fixed when the run began, so that a run that was cut off goes
-- on with the same. Where it has got to is not here: that is read from the stream of replays. A row
-- is written when a run begins and when it ends, and never in between.

CREATE TABLE outbox_replays (
    run        text        NOT NULL, -- one token of a NATS subject
    selection  json        NOT NULL,
    rate       integer,              -- events a second at the most; as fast as it goes if null
    firsts     bigint[]    NOT NULL, -- for each shard, from 0: the first position that counts
    lasts      bigint[]    NOT NULL, -- and the last, at most the head of the outbox as it began
    events     bigint      NOT NULL, -- how many are selected
    state      text        NOT NULL DEFAULT 'running',
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    CONSTRAINT outbox_replays_pkey PRIMARY KEY (run),
    CONSTRAINT outbox_replays_run_is_a_token CHECK (run ~ '^[A-Za-z0-9-]{1,48}$'),
    CONSTRAINT outbox_replays_rate_is_positive CHECK (rate >= 1),
    CONSTRAINT outbox_replays_shards_have_both_ends CHECK (cardinality(firsts) = cardinality(lasts)),
    CONSTRAINT outbox_replays_state_is_known CHECK (state IN ('running', 'done', 'cancelled')),
    CONSTRAINT outbox_replays_end_has_a_time CHECK ((state = 'running') = (ended_at IS NULL))
);
