-- API tokens: what each may do and until when. Of a secret there is only the SHA-256: a dump of the database
-- authenticates nobody.

CREATE TABLE api_tokens (
    id           uuid        NOT NULL, -- a ULID
    name         text        NOT NULL,
    scopes       text[]      NOT NULL,
    merchant_id  text, -- NULL: not bound to a merchant
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz, -- NULL: never
    revoked_at   timestamptz,
    last_used_at timestamptz, -- to within a minute
    CONSTRAINT api_tokens_pkey PRIMARY KEY (id),
    CONSTRAINT api_tokens_name_is_short CHECK (octet_length(name) BETWEEN 1 AND 200),
    CONSTRAINT api_tokens_scopes_are_known CHECK (
        cardinality(scopes) >= 1 AND scopes <@ '{admin,campaign,issue,redeem,read,settle}'
    ),
    CONSTRAINT api_tokens_merchants_redeem_and_settle CHECK (merchant_id IS NULL OR scopes <@ '{redeem,settle}'),
    CONSTRAINT api_tokens_times_can_be_read CHECK (
        created_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
        AND expires_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
        AND revoked_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
        AND last_used_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
    )
);

-- Every process with the API reads the live tokens every 2 s, in proportion to their number.
CREATE INDEX api_tokens_live ON api_tokens (coalesce(expires_at, 'infinity'::timestamptz)) WHERE revoked_at IS NULL;

CREATE TABLE api_token_secrets (
    token_id   uuid        NOT NULL,
    hash       bytea       NOT NULL, -- SHA-256 of the 64 hexadecimal digits
    created_at timestamptz NOT NULL DEFAULT now(),
    ends_at    timestamptz, -- NULL: with the token
    CONSTRAINT api_token_secrets_pkey PRIMARY KEY (token_id, hash),
    CONSTRAINT api_token_secrets_have_a_token FOREIGN KEY (token_id) REFERENCES api_tokens (id),
    CONSTRAINT api_token_secrets_hash_is_sha256 CHECK (octet_length(hash) = 32),
    CONSTRAINT api_token_secrets_times_can_be_read CHECK (
        created_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
        AND ends_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
    )
);

-- A token has one secret without an end, and beside it at most the one before, which ends.
CREATE UNIQUE INDEX api_token_secrets_newest ON api_token_secrets (token_id) WHERE ends_at IS NULL;
