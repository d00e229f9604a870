-- issue_batch_2: issues coupons for a batch of claims of one shard, and returns a verdict for each claim.
--
-- Arguments  a_shard
--            of each campaign of the batch: its id, the id as text, an id for its campaign-sold-out event, and the
--            index of its last claim, from 1
--            of each claim, those of a campaign together and in the order of the campaigns: the user, a new coupon
--            id, the id as text, a new code, an id for the issued event, the trace context, and
--            the id of the request
--            of each claim its idempotency key with its scope, as a hash; the array is NULL if no claim has a key
--            Only trace contexts, ids of requests and keys may be NULL. A user occurs once in a campaign, a key once.
-- Returns    rows that together have each claim once. `claims` holds indexes of claims from 1, `nths` and `numbers`
--            an element for each of them. Verdicts:
--   issued     all winners of a campaign in one row, with issued_at and expires_at. What the caller has sent for
--              them (coupon id, code) does not come back
--   held       the user has all coupons that the limit allows: their newest, whole
--   sold_out, not_open, closed
--              no coupon; if the user has earlier ones, the newest
--              The state of a coupon that comes back is that of its last change, or 'expired' from its end on.
--   replayed   the user has got a coupon with this key: that one, whole, as it was issued
--   key_reused another user has
-- Locks      the rows of scheduled campaigns, in the order of their ids, then the shard (outbox_lock), until the
--            transaction ends: nobody else issues or appends there. A change of a campaign locks in this order too
-- Raises     what outbox_append_2() raises, and violations of the constraints of `coupons`: a coupon id used before
--
-- Coupons, their events and campaign-sold-out are written in the caller's transaction. Behind the lock each claim is
-- judged by committed rows: the campaign's state, the user's coupons, the numbers that are left. A claim that gets no
-- coupon writes nothing.
--
-- The gate opens a scheduled campaign by its clock, and the sweeper opens the row up to a round later. The first winner
-- before that opens the row here, and campaign-opened is appended before any issued event. The row lock and the state
-- let either the sweeper or this function append it, never both.
--
-- A batch takes three statements, however many campaigns it has: one reads the campaigns, one issues, one appends. In
-- batches of 300 claims on 100 campaigns a claim took 40 us, and 140 us with statements for each campaign. Arrays are
-- read by index, because unnest() first copies every element into a tuplestore. Plans are made under the settings of
-- the caller's session.
--
-- Where the limit is one coupon, the gate has kept everybody out who has it, but for the few whom it forgot. So the
-- coupons are inserted first, as if nobody had one; the unique index on the user is the judge. If it refuses, nothing of
-- that attempt stays, and each user is looked up. The look-ups were a tenth of a batch's instructions.
CREATE OR REPLACE FUNCTION issue_batch_2(
    a_shard smallint,
    campaigns_in uuid[], campaign_keys text[], sold_out_event_ids uuid[], last_claims integer[],
    user_ids text[], coupon_ids uuid[], coupon_keys text[], codes text[], event_ids uuid[],
    traceparents text[], request_ids text[], keys_in uuid[]
) RETURNS TABLE (
    claims integer[], verdict text, nths integer[], numbers integer[], issued_at timestamptz,
    expires_at timestamptz, coupon_id uuid, code text, state text
)
    LANGUAGE plpgsql AS
$$
#variable_conflict use_column
DECLARE
    earlier_limit text := current_setting('lock_timeout');
    waits_until   timestamptz := clock_timestamp() + interval '100 milliseconds';
    openable      uuid[] := '{}'; -- scheduled campaigns whose rows this transaction has locked
    a_campaign_id uuid;
    the_time      timestamptz;
    -- Of each campaign of the batch; NULLs where there is none of this id.
    refusals      text[]; -- for all users who do not already have their coupons; NULL while the campaign is open
    scheduled     boolean[];
    limits        integer[];
    quantities    integer[]; -- and as many more as were cancelled and have put their seats back on sale
    last_numbers  integer[];
    expiries      timestamptz[];
    merchants     text[];
    shared_middles text[]; -- parts of an event's data, the same for all winners of a campaign
    shared_ends   text[];
    is_supposed   boolean := true; -- that no user has a coupon yet whose limit is one
    used          integer[] := '{}'; -- claims whose keys another user has used
    broken        text;
    -- Of each winner, in the order of the claims.
    won_count     integer;
    won           integer[];
    won_campaigns integer[];
    won_numbers   integer[];
    won_nths      integer[];
    sold_out      integer[]; -- the campaigns whose last number is among them
    won_keys      text[];
    won_datas     text[];
    -- Of each event of a campaign that opens, or is sold out.
    ids           uuid[];
    keys          text[];
    datas         text[];
BEGIN
    FOR a_campaign_id IN
        SELECT id FROM campaigns WHERE id = ANY (campaigns_in) AND state = 'scheduled' ORDER BY id
    LOOP
        -- The sweeper holds the row for a few milliseconds. A session that holds it for longer leaves this campaign
        -- closed to claims, and the others are served: a batch waits for all its rows together 100 ms at most.
        PERFORM set_config('lock_timeout', greatest(
            1, (1000 * extract(epoch FROM waits_until - clock_timestamp()))::integer)::text, true);
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
    -- The gate judged the window by its own clock when it admitted a claim. Here only what no difference of clocks
    -- and no wait in the queue explains is refused.
    SELECT array_agg(CASE
               WHEN state IS NULL OR state IN ('draft', 'paused') OR the_time < opens_at - interval '5 seconds'
                   THEN 'not_open'
               WHEN state = 'scheduled' AND id <> ALL (openable) THEN 'not_open'
               WHEN state = 'closed' OR the_time > closes_at + interval '30 seconds' THEN 'closed'
           END),
           array_agg(state = 'scheduled'), array_agg(per_user_limit),
           array_agg(least(quantity, budget / face_value)::integer + returned),
           array_agg(coalesce(last_number, 0)), array_agg(expiry), array_agg(merchant_id),
           array_agg('","campaign_id":"' || campaign_keys[c] || '","user_id":'),
           array_agg(format(
               ',"issued_at":"%s","expires_at":"%s","merchant_id":%s,"face_value":%s,"currency":"%s","settle_on":"%s"}',
               to_char(the_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
               to_char(expiry AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
               to_json(merchant_id), face_value, currency, settle_on))
    INTO refusals, scheduled, limits, quantities, last_numbers, expiries, merchants, shared_middles, shared_ends
    FROM (
        SELECT c, campaigns.*,
               coalesce(coupon_expires_at, the_time + coupon_valid_for * interval '1 second') AS expiry,
               (SELECT number FROM coupons WHERE campaign_id = campaigns_in[c] ORDER BY number DESC LIMIT 1)
                   AS last_number,
               coalesce((SELECT return_number FROM coupon_changes WHERE campaign_id = campaigns_in[c] AND return_number IS NOT NULL
                         ORDER BY return_number DESC LIMIT 1), 0) AS returned
        FROM generate_series(1, cardinality(campaigns_in)) AS c
             LEFT JOIN campaigns ON id = campaigns_in[c] AND shard = a_shard
        ORDER BY c
    ) AS campaign;

    -- In the order of the claims: users below their limit get the next numbers, as far as the quantity goes. A campaign's
    -- columns are computed once for all its claims (OFFSET 0), and its numbers are counted without a sort.
    LOOP
        BEGIN
            WITH winners AS (
                SELECT c, i, campaign_id, nth, number, expiry
                FROM (
                    SELECT c, campaigns_in[c] AS campaign_id, coalesce(last_claims[c - 1], 0) + 1 AS first_claim,
                           last_claims[c] AS last_claim, limits[c] AS per_user_limit, last_numbers[c] AS last_number,
                           quantities[c] AS quantity, expiries[c] AS expiry
                    FROM generate_series(1, cardinality(campaigns_in)) AS c
                    WHERE refusals[c] IS NULL
                    OFFSET 0
                ) AS campaign CROSS JOIN LATERAL (
                    SELECT i, coalesce(held.nth, 0) + 1 AS nth, (last_number + row_number() OVER ())::integer AS number
                    FROM (SELECT generate_series(first_claim, last_claim) AS i) AS claim LEFT JOIN LATERAL (
                        SELECT nth FROM coupons
                        WHERE (per_user_limit > 1 OR NOT is_supposed)
                          AND coupons.campaign_id = campaign.campaign_id AND user_id = user_ids[i]
                        ORDER BY nth DESC LIMIT 1
                    ) AS held ON true
                    WHERE coalesce(held.nth, 0) < per_user_limit AND i <> ALL (used)
                      -- A retry gets no second coupon. Only users who have one are looked up.
                      AND (held.nth IS NULL OR keys_in IS NULL OR NOT EXISTS (
                          SELECT FROM coupons WHERE coupons.campaign_id = campaign.campaign_id
                                                AND user_id = user_ids[i] AND idempotency_key = keys_in[i]))
                ) AS entitled
                WHERE number <= quantity
            ), inserted AS (
                INSERT INTO coupons (id, campaign_id, user_id, nth, number, code, issued_at, expires_at,
                                     idempotency_key)
                SELECT coupon_ids[i], campaign_id, user_ids[i], nth, number, codes[i], the_time, expiry, keys_in[i]
                FROM winners
            )
            SELECT coalesce(array_agg(i), '{}'), array_agg(c), array_agg(number), array_agg(nth),
                   array_agg('{"coupon_id":"' || coupon_keys[i] || shared_middles[c] || to_json(user_ids[i])::text
                             || ',"number":' || number::text || shared_ends[c])
            INTO won, won_campaigns, won_numbers, won_nths, won_datas
            FROM winners;
            EXIT;
        EXCEPTION WHEN unique_violation THEN
            GET STACKED DIAGNOSTICS broken = CONSTRAINT_NAME;
            IF broken = 'coupons_one_per_user_and_limit' AND is_supposed THEN
                -- Rare: the gate has forgotten a user.
                is_supposed := false;
            ELSIF broken = 'coupons_idempotency_key' AND used = '{}' THEN
                -- Rare: a caller has sent a key again for another user.
                SELECT coalesce(array_agg(i), '{}') INTO used FROM generate_series(1, cardinality(keys_in)) AS i
                WHERE EXISTS (SELECT FROM coupons WHERE idempotency_key = keys_in[i]);
            ELSE
                RAISE;
            END IF;
        END;
    END LOOP;

    won_count := cardinality(won);
    IF won_count > 0 THEN
        -- Usually all win, and what is passed on of the winners are the arguments as they came.
        IF won_count < cardinality(user_ids) THEN
            SELECT array_agg(event_ids[i]), array_agg(coupon_keys[i]), array_agg(traceparents[i]),
                   array_agg(request_ids[i])
            INTO event_ids, coupon_keys, traceparents, request_ids
            FROM unnest(won) AS i;
        END IF;
        IF cardinality(campaigns_in) = 1 THEN
            won_keys := array_fill(campaign_keys[1], ARRAY [won_count]);
            sold_out := CASE WHEN won_numbers[won_count] = quantities[1] THEN ARRAY [1] END;
        ELSE
            SELECT array_agg(campaign_keys[c]), array_agg(c) FILTER (WHERE number = quantities[c])
            INTO won_keys, sold_out
            FROM unnest(won_campaigns, won_numbers) AS winner (c, number);
        END IF;
        IF cardinality(openable) > 0 THEN
            WITH opened AS (
                UPDATE campaigns SET state = 'open', version = version + 1
                WHERE id IN (SELECT campaigns_in[c] FROM unnest(won_campaigns) AS c WHERE scheduled[c])
                RETURNING *
            ), told AS (
                INSERT INTO campaign_changes (campaign_id, version, actor, before, after)
                SELECT id, version, 'clock', '{"state": "scheduled"}', '{"state": "open"}' FROM opened
            )
            -- A ULID: 48 bits of milliseconds, then random ones.
            SELECT array_agg((lpad(to_hex((extract(epoch FROM the_time) * 1000)::bigint), 12, '0')
                              || right(replace(gen_random_uuid()::text, '-', ''), 20))::uuid),
                   array_agg(campaign_keys[c]),
                   array_agg(json_build_object('campaign_id', campaign_keys[c], 'merchant_id', merchant_id,
                                               'name', name, 'quantity', quantity, 'version', version)::text)
            INTO ids, keys, datas
            FROM opened JOIN generate_series(1, cardinality(campaigns_in)) AS c ON campaigns_in[c] = id;
            IF ids IS NOT NULL THEN
                PERFORM outbox_append_2(
                    a_shard, ids, array_fill('campaign-opened'::text, ARRAY [cardinality(ids)]), keys,
                    keys, datas, NULL, NULL);
            END IF;
        END IF;
        PERFORM outbox_append_2(
            a_shard, event_ids, array_fill('issued'::text, ARRAY [won_count]), won_keys, coupon_keys, won_datas,
            traceparents, request_ids);
        IF cardinality(campaigns_in) = 1 THEN
            RETURN QUERY
            SELECT won, 'issued', won_nths, won_numbers, the_time, expiries[1], NULL::uuid, NULL::text, NULL::text;
        ELSE
            RETURN QUERY
            SELECT array_agg(won[w]), 'issued', array_agg(won_nths[w]), array_agg(won_numbers[w]), the_time,
                   expiries[c], NULL::uuid, NULL::text, NULL::text
            FROM generate_series(1, won_count) AS w CROSS JOIN LATERAL (SELECT won_campaigns[w]) AS of (c)
            GROUP BY c;
        END IF;
        -- The winner of the last number ends the sale.
        IF sold_out IS NOT NULL THEN
            SELECT array_agg(sold_out_event_ids[c]), array_agg(campaign_keys[c]),
                   array_agg(json_build_object('campaign_id', campaign_keys[c], 'merchant_id', merchants[c],
                                               'quantity', quantities[c])::text)
            INTO ids, keys, datas
            FROM unnest(sold_out) AS c;
            PERFORM outbox_append_2(
                a_shard, ids, array_fill('campaign-sold-out'::text, ARRAY [cardinality(ids)]), keys,
                keys, datas, NULL, NULL);
        END IF;
    END IF;

    -- For each claim that did not win: the coupon that the user has got with the key, or else the newest, and the reason.
    IF won_count < cardinality(user_ids) THEN
        RETURN QUERY
        SELECT ARRAY [i], CASE WHEN first.user_id = user_ids[i] THEN 'replayed' WHEN first.id IS NOT NULL THEN 'key_reused'
                               WHEN held.nth >= limits[c] THEN 'held' ELSE coalesce(refusals[c], 'sold_out') END,
               ARRAY [held.nth], ARRAY [held.number], held.issued_at, held.expires_at, held.id, held.code,
               CASE WHEN first.id IS NOT NULL THEN 'issued' ELSE coalesce(
                   (SELECT nullif(kind, 'restored') FROM coupon_changes WHERE coupon_changes.coupon_id = held.id
                    ORDER BY nth DESC LIMIT 1),
                   CASE WHEN held.expires_at <= the_time THEN 'expired' ELSE 'issued' END) END
        FROM generate_series(1, cardinality(campaigns_in)) AS c
             CROSS JOIN LATERAL generate_series(coalesce(last_claims[c - 1], 0) + 1, last_claims[c]) AS i
             LEFT JOIN coupons AS first ON first.idempotency_key = keys_in[i]
             LEFT JOIN LATERAL (
                 SELECT * FROM coupons
                 WHERE campaign_id = campaigns_in[c] AND user_id = user_ids[i] AND (first.id IS NULL OR id = first.id)
                 ORDER BY nth DESC LIMIT 1
             ) AS held ON true
        WHERE i NOT IN (SELECT won[w] FROM generate_series(1, won_count) AS w);
    END IF;
END
$$;
