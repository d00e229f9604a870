-- A campaign: what is given away, how much of it, to whom, and when.

CREATE TABLE campaigns (
    id                uuid        NOT NULL, -- a ULID
    shard             smallint    NOT NULL, -- of the outbox; fixed for ever
    name              text        NOT NULL,
    merchant_id       text        NOT NULL,
    face_value        bigint      NOT NULL, -- in minor units of the currency
    currency          text        NOT NULL, -- ISO 4217
    quantity          integer     NOT NULL,
    per_user_limit    integer     NOT NULL,
    opens_at          timestamptz NOT NULL,
    closes_at         timestamptz NOT NULL,
    coupon_expires_at timestamptz,
    coupon_valid_for  bigint, -- seconds from the issue
    settle_on         text        NOT NULL,
    state             text        NOT NULL,
    version           integer     NOT NULL DEFAULT 1,
    created_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT campaigns_pkey PRIMARY KEY (id),
    CONSTRAINT campaigns_shard_is_not_negative CHECK (shard >= 0),
    CONSTRAINT campaigns_face_value_is_positive CHECK (face_value >= 1),
    CONSTRAINT campaigns_currency_is_three_letters CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT campaigns_quantity_is_positive CHECK (quantity >= 1),
    CONSTRAINT campaigns_per_user_limit_is_positive CHECK (per_user_limit >= 1),
    CONSTRAINT campaigns_open_before_they_close CHECK (opens_at < closes_at),
    CONSTRAINT campaigns_coupons_expire_one_way CHECK (num_nonnulls(coupon_expires_at, coupon_valid_for) = 1),
    CONSTRAINT campaigns_valid_for_is_positive CHECK (coupon_valid_for >= 1),
    CONSTRAINT campaigns_settle_on_is_known CHECK (settle_on IN ('redeem', 'issue')),
    CONSTRAINT campaigns_state_is_known CHECK (state IN ('draft', 'scheduled', 'open', 'paused', 'closed'))
);

-- The few that time will open or close.
CREATE INDEX campaigns_due ON campaigns (opens_at, closes_at) WHERE state IN ('scheduled', 'open', 'paused');
