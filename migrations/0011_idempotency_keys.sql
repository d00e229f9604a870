-- What requests with an `Idempotency-Key` have done, written in the transaction of their effect.

SET LOCAL lock_timeout = '500ms';

-- A claim's answer is its coupon: the key stands there, and is kept as long.
ALTER TABLE coupons ADD COLUMN idempotency_key uuid; -- of the claim, with its scope: 128 bits of a SHA-256
ALTER TABLE campaigns ADD COLUMN require_idempotency_key boolean NOT NULL DEFAULT false;

-- The answers to other requests. A key is kept for 24 to 48 hours. The table has a partition for each of four days in turn:
-- today's and yesterday's hold keys, tomorrow's is empty, and the one before yesterday is emptied as a whole. So no partition
-- is ever created or missing while requests are served.
CREATE TABLE idempotency_keys (
    slot         smallint    NOT NULL, -- idempotency_slot() of the day
    key          uuid        NOT NULL, -- with its scope, as that of a coupon
    request_hash bytea       NOT NULL, -- SHA-256 of the body
    status       smallint    NOT NULL, -- of the answer
    location     text,
    body         text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (key, slot),
    CONSTRAINT idempotency_keys_hash_is_sha256 CHECK (octet_length(request_hash) = 32),
    CONSTRAINT idempotency_keys_answers_are_good CHECK (status BETWEEN 200 AND 299)
) PARTITION BY LIST (slot);

CREATE TABLE idempotency_keys_0 PARTITION OF idempotency_keys FOR VALUES IN (0);
CREATE TABLE idempotency_keys_1 PARTITION OF idempotency_keys FOR VALUES IN (1);
CREATE TABLE idempotency_keys_2 PARTITION OF idempotency_keys FOR VALUES IN (2);
CREATE TABLE idempotency_keys_3 PARTITION OF idempotency_keys FOR VALUES IN (3);
