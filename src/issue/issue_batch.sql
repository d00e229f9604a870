-- issue_batch: issues coupons for a batch of claims of one shard, and returns a verdict for each claim.
--
-- Arguments  a_shard
--            of each campaign of the batch: its id, the id as text, an id for its campaign-sold-out event, and the
--            index of its last claim, from 1
--            of each claim, those of a campaign together and in the order of the campaigns: the user, a new coupon
--            id, the id as text, a new code, an id for the issued event, and the trace context
--            Only trace contexts may be NULL. A user occurs once in a campaign.
-- Returns    rows that together have each claim once. `claims` holds indexes of claims from 1, `nths` and `numbers`
--            an element for each of them. Verdicts:
--   issued     all winners of a campaign in one row, with issued_at and expires_at. What the caller has sent for
--              them (coupon id, code) does not come back
--   held       the user has all coupons that the limit allows: their newest, whole
--   sold_out, not_open, closed
--              no coupon; if the user has earlier ones, the newest
--              The state of a coupon that comes back is 'expired' from its end on.
-- Locks      the rows of scheduled campaigns, in the order of their ids, then the shard (outbox_lock), until the
--            transaction ends: nobody else issues or appends there. A change of a campaign locks in this order too
-- Raises     what outbox_append() raises, and violations of the constraints of `coupons`: a coupon id used before
--
-- Coupons, their events and campaign-sold-out are written in the caller's transaction. Behind the lock each claim is
-- judged by committed rows: the campaign's state, the user's coupons, the numbers that are left. A claim that gets no
-- coupon writes nothing.
--
-- The gate opens a scheduled campaign by its clock, and the sweeper opens the row up to a round later. The first winner
-- before that opens the row here, and campaign-opened is appended before any issued event. The row lock and the state
-- let either the sweeper or this function append it, never both.
--
-- Arrays are read by index, because unnest() first copies every element into a tuplestore. With that, and without
-- returning a winner's own data, a row took 22 us instead of 26 us in batches of 80. Plans are made under the
-- settings of the caller's session.
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
DECLARE
    earlier_limit  text := current_setting('lock_timeout');
    openable       uuid[] := '{}'; -- scheduled campaigns whose rows this transaction has locked
    first_claim    integer := 1;
    last_claim     integer;
    a_campaign_id  uuid;
    a_campaign_key text;
    campaign       campaigns;
    the_time       timestamptz;
    the_expiry     timestamptz;
    refusal        text; -- for all users who do not already have their coupons; NULL while the campaign is open
    last_number    integer;
    shared_data    text; -- the end of the event's data, the same for all winners of a campaign
    won            integer[];
    won_count      integer;
    won_numbers    integer[];
    won_nths       integer[];
    won_events     uuid[];
    won_keys       text[];
    won_datas      text[];
    won_traces     text[];
BEGIN
    FOR a_campaign_id IN
        SELECT id FROM campaigns WHERE id = ANY (campaigns_in) AND state = 'scheduled' ORDER BY id
    LOOP
        -- The sweeper holds the row for a few milliseconds. A session that holds it for longer leaves this campaign
        -- closed to claims, and the others are served.
        PERFORM set_config('lock_timeout', '200ms', true);
        BEGIN
            PERFORM FROM campaigns WHERE id = a_campaign_id AND state = 'scheduled' FOR NO KEY UPDATE;
            openable := openable || a_campaign_id;
        EXCEPTION WHEN lock_not_available THEN
            NULL; -- not in `openable`: its claims are refused below
        END;
        PERFORM set_config('lock_timeout', earlier_limit, true);
    END LOOP;
    PERFORM outbox_lock(a_shard);
    the_time := clock_timestamp();
    FOR c IN 1 .. cardinality(campaigns_in) LOOP
        a_campaign_id := campaigns_in[c];
        a_campaign_key := campaign_keys[c];
        last_claim := last_claims[c];
        SELECT * INTO campaign FROM campaigns WHERE id = a_campaign_id AND shard = a_shard;
        -- The gate judged the window by its own clock when it admitted the claim. Here only what no difference of
        -- clocks and no wait in the queue explains is refused.
        refusal := CASE
            WHEN campaign.id IS NULL OR campaign.state IN ('draft', 'paused')
                OR the_time < campaign.opens_at - interval '5 seconds' THEN 'not_open'
            WHEN campaign.state = 'scheduled' AND a_campaign_id <> ALL (openable) THEN 'not_open'
            WHEN campaign.state = 'closed' OR the_time > campaign.closes_at + interval '30 seconds' THEN 'closed'
        END;
        the_expiry := coalesce(campaign.coupon_expires_at, the_time + campaign.coupon_valid_for * interval '1 second');
        last_number := coalesce(
            (SELECT number FROM coupons WHERE campaign_id = a_campaign_id ORDER BY number DESC LIMIT 1), 0);
        shared_data := format(
            ',"issued_at":"%s","expires_at":"%s","merchant_id":%s,"face_value":%s,"currency":"%s","settle_on":"%s"}',
            to_char(the_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            to_char(the_expiry AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            to_json(campaign.merchant_id), campaign.face_value, campaign.currency, campaign.settle_on);

        -- In the order of the claims: users below their limit get the next numbers, as far as the quantity goes.
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
                                '","user_id":', to_json(user_ids[i]), ',"number":', number, shared_data))
        INTO won, won_numbers, won_nths, won_events, won_keys, won_traces, won_datas
        FROM winners;

        won_count := cardinality(won);
        IF won_count > 0 AND campaign.state = 'scheduled' THEN
            UPDATE campaigns SET state = 'open', version = version + 1 WHERE id = a_campaign_id
            RETURNING * INTO campaign;
            -- A ULID: 48 bits of milliseconds, then random ones.
            PERFORM outbox_append(
                a_shard,
                ARRAY [(lpad(to_hex((extract(epoch FROM the_time) * 1000)::bigint), 12, '0')
                        || right(replace(gen_random_uuid()::text, '-', ''), 20))::uuid],
                ARRAY ['campaign-opened'], ARRAY [a_campaign_key], ARRAY [a_campaign_key],
                ARRAY [json_build_object('campaign_id', a_campaign_key, 'merchant_id', campaign.merchant_id,
                                         'name', campaign.name, 'quantity', campaign.quantity,
                                         'version', campaign.version)::text], ARRAY [NULL]::text[]);
        END IF;
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

        -- For each claim that did not win: the user's newest coupon, and the reason.
        IF won_count < last_claim - first_claim + 1 THEN
            RETURN QUERY
            SELECT ARRAY [i],
                   CASE WHEN held.nth >= campaign.per_user_limit THEN 'held' ELSE coalesce(refusal, 'sold_out') END,
                   ARRAY [held.nth], ARRAY [held.number], held.issued_at, held.expires_at, held.id, held.code,
                   CASE WHEN held.state = 'issued' AND held.expires_at <= the_time THEN 'expired' ELSE held.state END
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
