-- What the events add up to. These tables hold nothing that could not be made again from them.

-- The wallet: what a user holds.
CREATE TABLE wallet (
    user_id     text        NOT NULL,
    coupon_id   uuid        NOT NULL, -- a ULID: the newest are the highest
    campaign_id uuid        NOT NULL,
    number      integer     NOT NULL,
    face_value  bigint      NOT NULL,
    currency    text        NOT NULL,
    state       text        NOT NULL,
    issued_at   timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    CONSTRAINT wallet_pkey PRIMARY KEY (user_id, coupon_id),
    CONSTRAINT wallet_state_is_known CHECK (state IN ('issued', 'redeemed', 'cancelled', 'expired'))
);

-- Settlement: what a merchant is owed. Entries are added, never changed.
CREATE TABLE settlement_entries (
    coupon_id   uuid        NOT NULL,
    kind        text        NOT NULL,
    campaign_id uuid        NOT NULL,
    merchant_id text        NOT NULL,
    amount      bigint      NOT NULL, -- in minor units of the currency
    currency    text        NOT NULL,
    event_id    uuid        NOT NULL, -- what caused it
    occurred_at timestamptz NOT NULL,
    CONSTRAINT settlement_entries_pkey PRIMARY KEY (coupon_id, kind),
    CONSTRAINT settlement_entries_kind_is_known CHECK (kind IN ('accrual')),
    CONSTRAINT settlement_entries_amount_is_positive CHECK (amount >= 1)
);
