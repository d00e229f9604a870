-- issue_batch: issue_batch_2() for claims without idempotency keys and ids of requests. The version before calls it, and it goes with the next.
--
-- Arguments, returns, locks, raises: see issue_batch_2(). No claim is `replayed` or `key_reused`.
CREATE OR REPLACE FUNCTION issue_batch(
    a_shard smallint,
    campaigns_in uuid[], campaign_keys text[], sold_out_event_ids uuid[], last_claims integer[],
    user_ids text[], coupon_ids uuid[], coupon_keys text[], codes text[], event_ids uuid[],
    traceparents text[]
) RETURNS TABLE (
    claims integer[], verdict text, nths integer[], numbers integer[], issued_at timestamptz,
    expires_at timestamptz, coupon_id uuid, code text, state text
)
    LANGUAGE plpgsql AS
$$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT * FROM issue_batch_2(
        a_shard, campaigns_in, campaign_keys, sold_out_event_ids, last_claims, user_ids, coupon_ids, coupon_keys, codes,
        event_ids, traceparents, NULL, NULL);
END
$$;
