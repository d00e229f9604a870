-- What requests with an `Idempotency-Key` have done, written in the transaction of their effect. A claim's answer is its
-- coupon; the answer to any other request stands here.
--
-- A key is kept for 24 to 48 hours. The table has a partition for each of four days in turn: today's and yesterday's hold
-- keys, tomorrow's is empty, and the one before yesterday is emptied as a whole. So no partition is ever created or
-- missing while requests are served.

CREATE TABLE idempotency_keys (
    slot         smallint    NOT NULL, -- idempotency_slot() of the day
    key_hash     bytea       NOT NULL, -- SHA-256 of caller, operation, target and key
    request_hash bytea       NOT NULL, -- SHA-256 of the body
    coupon_id    uuid, -- of a claim
    status       smallint, -- of any other request: its answer
    location     text,
    body         text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (key_hash, slot),
    CONSTRAINT idempotency_keys_hashes_are_sha256 CHECK (octet_length(key_hash) = 32 AND octet_length(request_hash) = 32),
    CONSTRAINT idempotency_keys_have_an_answer CHECK (
        CASE WHEN coupon_id IS NULL THEN status BETWEEN 200 AND 299 AND body IS NOT NULL
        ELSE status IS NULL AND location IS NULL AND body IS NULL END
    )
) PARTITION BY LIST (slot);

CREATE TABLE idempotency_keys_0 PARTITION OF idempotency_keys FOR VALUES IN (0);
CREATE TABLE idempotency_keys_1 PARTITION OF idempotency_keys FOR VALUES IN (1);
CREATE TABLE idempotency_keys_2 PARTITION OF idempotency_keys FOR VALUES IN (2);
CREATE TABLE idempotency_keys_3 PARTITION OF idempotency_keys FOR VALUES IN (3);

SET LOCAL lock_timeout = '500ms';
ALTER TABLE campaigns ADD COLUMN require_idempotency_key boolean NOT NULL DEFAULT false;
