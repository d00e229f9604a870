-- A coupon: a promise to one user, kept. The constraints are the last guard behind the gate and
-- behind issue_batch(), the only way in, which has read the campaign: a foreign key would lock
-- and rewrite the campaign's row with every batch.

CREATE TABLE coupons (
    id          uuid        NOT NULL, -- a ULID
    campaign_id uuid        NOT NULL,
    user_id     text        NOT NULL,
    nth         integer     NOT NULL, -- of this user in this campaign
    number      integer     NOT NULL, -- serial within the campaign, without gaps
    code        text        NOT NULL,
    state       text        NOT NULL DEFAULT 'issued',
    issued_at   timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    CONSTRAINT coupons_pkey PRIMARY KEY (id),
    CONSTRAINT coupons_one_per_user_and_limit UNIQUE (campaign_id, user_id, nth),
    CONSTRAINT coupons_one_per_number UNIQUE (campaign_id, number),
    CONSTRAINT coupons_user_is_named CHECK (length(user_id) BETWEEN 1 AND 64),
    CONSTRAINT coupons_nth_is_positive CHECK (nth >= 1),
    CONSTRAINT coupons_number_is_positive CHECK (number >= 1),
    CONSTRAINT coupons_state_is_known CHECK (state IN ('issued', 'redeemed', 'cancelled', 'expired'))
);
