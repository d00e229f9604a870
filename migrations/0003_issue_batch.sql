-- Issues a batch of claims of one shard and answers for each, in one call and one transaction.
--
-- It takes the shard's lock, so that nobody else issues or appends there until the commit; then
-- it judges every claim by what is committed: the state of its campaign, the coupons that the
-- user already holds, and the numbers that are left. A winner gets a coupon and an outbox row. A
-- claim that loses changes nothing.
--
-- The first four arrays have an element for each campaign of the batch: id, the same as text, an
-- id for the event that says that it is sold out, and the claim, from 1, that is its last. The
-- others have an element for each claim, those of a campaign together. No user occurs twice in a
-- campaign. There are no NULLs, but for traceparents.
--
-- Verdicts: issued (one row for all winners of a campaign, with numbers, nths, issued_at and expires_at) | held
-- (all of the user's newest coupon) | sold_out | not_open | closed.
--
-- Arrays are read by index, because unnest() first puts every element into a store. With that, and
-- without sending a winner what the caller has sent itself, a row took 22 instead of 26 us in batches
-- of 80. The caller sets for its session what the plans are to be made with (PLANS in writer.rs).
CREATE FUNCTION issue_batch(
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
DECLARE
    first_claim    integer := 1;
    last_claim     integer;
    a_campaign_id  uuid;
    a_campaign_key text;
    campaign       campaigns;
    the_time       timestamptz;
    the_expiry     timestamptz;
    refusal        text; -- of everybody who does not already hold a coupon
    last_number    integer;
    money          text; -- the part of the event that is the same for all of a campaign
    won            integer[];
    won_count      integer;
    won_numbers    integer[];
    won_nths       integer[];
    won_events     uuid[];
    won_keys       text[];
    won_datas      text[];
    won_traces     text[];
BEGIN
    PERFORM outbox_lock(a_shard);
    the_time := clock_timestamp();
    FOR c IN 1 .. cardinality(campaigns_in) LOOP
        a_campaign_id := campaigns_in[c];
        a_campaign_key := campaign_keys[c];
        last_claim := last_claims[c];
        SELECT * INTO campaign FROM campaigns WHERE id = a_campaign_id AND shard = a_shard;
        -- The gate has judged the window by its clock; here only what is far outside is refused.
        refusal := CASE
            WHEN campaign.id IS NULL OR campaign.state IN ('draft', 'paused')
                OR the_time < campaign.opens_at - interval '5 seconds' THEN 'not_open'
            WHEN campaign.state = 'closed' OR the_time > campaign.closes_at + interval '30 seconds' THEN 'closed'
        END;
        the_expiry := coalesce(campaign.coupon_expires_at, the_time + campaign.coupon_valid_for * interval '1 second');
        last_number := coalesce(
            (SELECT number FROM coupons WHERE campaign_id = a_campaign_id ORDER BY number DESC LIMIT 1), 0);
        money := format(
            ',"issued_at":"%s","expires_at":"%s","merchant_id":%s,"face_value":%s,"currency":"%s","settle_on":"%s"}',
            to_char(the_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            to_char(the_expiry AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            to_json(campaign.merchant_id), campaign.face_value, campaign.currency, campaign.settle_on);

        WITH entitled AS (
            SELECT i, coalesce(held.nth, 0) + 1 AS nth,
                   (last_number + row_number() OVER ())::integer AS number
            FROM (SELECT generate_series(first_claim, last_claim) AS i) AS claim LEFT JOIN LATERAL (
                SELECT nth FROM coupons WHERE campaign_id = a_campaign_id AND user_id = user_ids[i]
                ORDER BY nth DESC LIMIT 1
            ) AS held ON true
            WHERE coalesce(held.nth, 0) < campaign.per_user_limit AND refusal IS NULL
        ), winners AS (
            SELECT * FROM entitled WHERE number <= campaign.quantity
        ), inserted AS (
            INSERT INTO coupons (id, campaign_id, user_id, nth, number, code, issued_at, expires_at)
            SELECT coupon_ids[i], a_campaign_id, user_ids[i], nth, number, codes[i], the_time, the_expiry FROM winners
        )
        SELECT coalesce(array_agg(i), '{}'), array_agg(number), array_agg(nth), array_agg(event_ids[i]),
               array_agg(coupon_keys[i]), array_agg(traceparents[i]),
               array_agg(concat('{"coupon_id":"', coupon_keys[i], '","campaign_id":"', a_campaign_key,
                                '","user_id":', to_json(user_ids[i]), ',"number":', number, money))
        INTO won, won_numbers, won_nths, won_events, won_keys, won_traces, won_datas
        FROM winners;

        won_count := cardinality(won);
        IF won_count > 0 THEN
            PERFORM outbox_append(
                a_shard, won_events, array_fill('issued'::text, ARRAY [won_count]),
                array_fill(a_campaign_key, ARRAY [won_count]), won_keys, won_datas, won_traces);
            RETURN QUERY
            SELECT won, 'issued', won_nths, won_numbers, the_time, the_expiry, NULL::uuid, NULL::text, NULL::text;
            IF last_number + won_count = campaign.quantity THEN
                PERFORM outbox_append(
                    a_shard, sold_out_event_ids[c:c], ARRAY ['campaign-sold-out'], ARRAY [a_campaign_key],
                    ARRAY [a_campaign_key],
                    ARRAY [json_build_object('campaign_id', a_campaign_key, 'merchant_id', campaign.merchant_id,
                                             'quantity', campaign.quantity)::text], ARRAY [NULL]::text[]);
            END IF;
        END IF;

        -- Whoever did not win is shown the coupon that he holds, or told why there is none.
        IF won_count < last_claim - first_claim + 1 THEN
            RETURN QUERY
            SELECT ARRAY [i], CASE WHEN held.nth >= campaign.per_user_limit THEN 'held' ELSE coalesce(refusal, 'sold_out') END,
                   ARRAY [held.nth], ARRAY [held.number], held.issued_at, held.expires_at, held.id, held.code, held.state
            FROM generate_series(first_claim, last_claim) AS i LEFT JOIN LATERAL (
                     SELECT * FROM coupons WHERE campaign_id = a_campaign_id AND user_id = user_ids[i]
                     ORDER BY nth DESC LIMIT 1
                 ) AS held ON true
            WHERE i <> ALL (won);
        END IF;
        first_claim := last_claim + 1;
    END LOOP;
END
$$;
