-- What becomes of a coupon after it was issued. `coupons` is what was promised and is never updated: the state of a coupon
-- follows from its last change, and from the time. Its column `state` says 'issued' for ever.

SET LOCAL lock_timeout = '500ms';

-- A row for each change, in the transaction of its event. Rows are only added. The key is the lock: of two tills that redeem
-- a coupon at once, both want the same `nth`, and one gets it.
CREATE TABLE coupon_changes (
    coupon_id       uuid        NOT NULL,
    nth             integer     NOT NULL, -- of this coupon, from 1
    kind            text        NOT NULL,
    campaign_id     uuid        NOT NULL,
    merchant_id     text        NOT NULL,
    at              timestamptz NOT NULL,
    position        bigint      NOT NULL, -- of its event in the outbox of the campaign's shard
    actor           text        NOT NULL,
    request_id      text,
    order_ref       text, -- of the redemption, or of the one that is restored
    amount          bigint, -- the same, in minor units
    idempotency_key uuid, -- with its scope: 128 bits of a SHA-256
    request_hash    bytea, -- SHA-256 of the body of the request with the key
    CONSTRAINT coupon_changes_pkey PRIMARY KEY (coupon_id, nth),
    CONSTRAINT coupon_changes_nth_is_positive CHECK (nth >= 1),
    CONSTRAINT coupon_changes_kind_is_known CHECK (kind IN ('redeemed', 'restored', 'cancelled', 'expired')),
    CONSTRAINT coupon_changes_actor_is_named CHECK (actor <> ''),
    CONSTRAINT coupon_changes_have_orders CHECK (
        (kind IN ('redeemed', 'restored')) = (order_ref IS NOT NULL AND amount IS NOT NULL)),
    CONSTRAINT coupon_changes_amount_is_positive CHECK (amount >= 1),
    CONSTRAINT coupon_changes_keys_have_hashes CHECK (
        num_nulls(idempotency_key, request_hash) <> 1 AND octet_length(request_hash) = 32)
);
-- An order redeems one coupon, once.
CREATE UNIQUE INDEX coupon_changes_one_per_order ON coupon_changes (merchant_id, order_ref) WHERE kind = 'redeemed';
CREATE UNIQUE INDEX coupon_changes_idempotency_key ON coupon_changes (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX coupon_changes_by_campaign ON coupon_changes (campaign_id, coupon_id, nth);

-- The same in the wallet, from the events.
CREATE TABLE wallet_changes (
    coupon_id   uuid        NOT NULL,
    nth         integer     NOT NULL,
    kind        text        NOT NULL,
    campaign_id uuid        NOT NULL,
    at          timestamptz NOT NULL,
    CONSTRAINT wallet_changes_pkey PRIMARY KEY (coupon_id, nth),
    CONSTRAINT wallet_changes_kind_is_known CHECK (kind IN ('redeemed', 'restored', 'cancelled', 'expired'))
);

-- A coupon may be accrued, reversed and accrued again: each entry names the change of the coupon that it follows from, or 0
-- for the issue. What is reversed has a negative amount.
ALTER TABLE settlement_entries
    ADD COLUMN nth integer NOT NULL DEFAULT 0,
    DROP CONSTRAINT settlement_entries_kind_is_known,
    DROP CONSTRAINT settlement_entries_amount_is_positive,
    ADD CONSTRAINT settlement_entries_kind_is_known CHECK (kind IN ('accrual', 'reversal')) NOT VALID,
    ADD CONSTRAINT settlement_entries_amount_has_a_sign CHECK (
        amount <> 0 AND (kind = 'accrual') = (amount > 0)) NOT VALID;

-- The walk along the coupons of a campaign that makes them expire: the number that it has reached, and when there may be
-- more to do; NULL when there is nothing more.
ALTER TABLE campaigns
    ADD COLUMN expired_up_to integer NOT NULL DEFAULT 0,
    ADD COLUMN expiry_due_at timestamptz DEFAULT now();
