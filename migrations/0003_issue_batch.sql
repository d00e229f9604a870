-- Issues a batch of claims of one shard and answers for each, in one call and one transaction.
--
-- It takes the shard's lock, so that nobody else issues or appends there until the commit; then
-- it judges every claim by what is committed: the state of its campaign, the coupons that the
-- user already holds or gets from an earlier claim of the batch, and the numbers that are left.
-- A winner gets a coupon and an outbox row. A claim that loses changes nothing.
--
-- The first three arrays say which campaigns occur in the batch: id, the same as text, and an id
-- for the event that says that it is sold out. The others have an element for each claim.
--
-- Verdicts: issued | held (the newest coupon of the user is answered) | sold_out | not_open | closed.
--
-- Plans are the same from the first row to the millionth: what is best while a table is empty (to
-- scan all of it, to hash all of it) is kept with the connection, and would be ruin when it is full.
CREATE FUNCTION issue_batch(
    a_shard smallint,
    campaigns_in uuid[], campaign_keys text[], sold_out_event_ids uuid[],
    campaign_ids uuid[], user_ids text[], coupon_ids uuid[], coupon_keys text[], codes text[],
    event_ids uuid[], traceparents text[]
) RETURNS TABLE (
    claim bigint, verdict text, coupon_id uuid, nth integer, number integer, code text, state text,
    issued_at timestamptz, expires_at timestamptz
)
    LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
AS
$$
#variable_conflict use_column
DECLARE
    a_campaign_id  uuid;
    a_campaign_key text;
    a_sold_out_id  uuid;
    campaign       campaigns;
    the_time       timestamptz;
    the_expiry     timestamptz;
    refusal        text; -- of everybody who does not already hold a coupon
    last_number    integer;
    money          text; -- the part of the event that is the same for all of a campaign
    won            bigint[];
    won_numbers    integer[];
    won_nths       integer[];
    won_coupons    uuid[];
    won_keys       text[];
    won_codes      text[];
    won_events     uuid[];
    won_traces     text[];
    won_datas      text[];
    won_count      integer;
BEGIN
    PERFORM outbox_lock(a_shard);
    the_time := clock_timestamp();
    FOR a_campaign_id, a_campaign_key, a_sold_out_id IN
        SELECT * FROM unnest(campaigns_in, campaign_keys, sold_out_event_ids)
    LOOP
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

        WITH asked AS (
            SELECT ord, user_id, coupon_id, coupon_key, code, event_id, traceparent,
                   row_number() OVER (PARTITION BY user_id ORDER BY ord) AS turn
            FROM unnest(campaign_ids, user_ids, coupon_ids, coupon_keys, codes, event_ids, traceparents)
                 WITH ORDINALITY AS a (campaign_id, user_id, coupon_id, coupon_key, code, event_id, traceparent, ord)
            WHERE campaign_id = a_campaign_id
        ), entitled AS (
            SELECT asked.*, (coalesce(held.nth, 0) + turn)::integer AS nth,
                   (last_number + row_number() OVER (ORDER BY ord))::integer AS number
            FROM asked LEFT JOIN LATERAL (
                SELECT nth FROM coupons WHERE campaign_id = a_campaign_id AND user_id = asked.user_id
                ORDER BY nth DESC LIMIT 1
            ) AS held ON true
            WHERE coalesce(held.nth, 0) + turn <= campaign.per_user_limit AND refusal IS NULL
        ), winners AS (
            SELECT * FROM entitled WHERE number <= campaign.quantity
        ), inserted AS (
            INSERT INTO coupons (id, campaign_id, user_id, nth, number, code, issued_at, expires_at)
            SELECT coupon_id, a_campaign_id, user_id, nth, number, code, the_time, the_expiry FROM winners
        )
        SELECT coalesce(array_agg(ord), '{}'), array_agg(number), array_agg(nth), array_agg(coupon_id),
               array_agg(coupon_key), array_agg(code), array_agg(event_id), array_agg(traceparent),
               array_agg(concat('{"coupon_id":"', coupon_key, '","campaign_id":"', a_campaign_key,
                                '","user_id":', to_json(user_id), ',"number":', number, money))
        INTO won, won_numbers, won_nths, won_coupons, won_keys, won_codes, won_events, won_traces, won_datas
        FROM winners;

        won_count := cardinality(won);
        IF won_count > 0 THEN
            PERFORM outbox_append(
                a_shard, won_events, array_fill('issued'::text, ARRAY [won_count]),
                array_fill(a_campaign_key, ARRAY [won_count]), won_keys, won_datas, won_traces);
            RETURN QUERY
            SELECT w.ord, 'issued', w.coupon, w.nth, w.number, w.code, 'issued', the_time, the_expiry
            FROM unnest(won, won_coupons, won_nths, won_numbers, won_codes) AS w (ord, coupon, nth, number, code);
            IF last_number + won_count = campaign.quantity THEN
                PERFORM outbox_append(
                    a_shard, ARRAY [a_sold_out_id], ARRAY ['campaign-sold-out'], ARRAY [a_campaign_key],
                    ARRAY [a_campaign_key],
                    ARRAY [json_build_object('campaign_id', a_campaign_key, 'merchant_id', campaign.merchant_id,
                                             'quantity', campaign.quantity)::text], ARRAY [NULL]::text[]);
            END IF;
        END IF;

        -- Whoever did not win is shown the coupon that he holds, or told why there is none.
        IF won_count < (SELECT count(*) FROM unnest(campaign_ids) AS a (id) WHERE id = a_campaign_id) THEN
            RETURN QUERY
            SELECT a.ord, CASE WHEN held.nth >= campaign.per_user_limit THEN 'held' ELSE coalesce(refusal, 'sold_out') END,
                   held.id, held.nth, held.number, held.code, held.state, held.issued_at, held.expires_at
            FROM unnest(campaign_ids, user_ids) WITH ORDINALITY AS a (campaign_id, user_id, ord)
                 LEFT JOIN LATERAL (
                     SELECT * FROM coupons WHERE campaign_id = a_campaign_id AND user_id = a.user_id
                     ORDER BY nth DESC LIMIT 1
                 ) AS held ON true
            WHERE a.campaign_id = a_campaign_id AND a.ord <> ALL (won);
        END IF;
    END LOOP;
END
$$;
