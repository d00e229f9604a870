-- change_coupons: redeems, restores, cancels and expires coupons of one shard, and returns what became of each.
--
-- Arguments  a_shard
--            of each change that is asked for: its kind, the coupon, its id and that of its campaign as text, an id for the
--            event and one for the event of an expiry that may follow, who asks, the id of the request, the trace context
--            of what is redeemed or restored: the order, and the amount in minor units (NULL: the face value)
--            what the caller supposes of the coupon, or NULL: its holder, its merchant, its currency
--            the idempotency key with its scope, and the hash of its request, or NULL
--            whether the change is only tried: then nothing is written
--            A coupon occurs once, and so does a key, and an order.
-- Returns    a row for each change, with its index from 1. Outcomes:
--   changed    the change, which is the last of the coupon or, if the coupon has expired at once, the one before
--   replayed   the same request, or an equal redemption for the order, has made this change before
--   possible   it was only tried
--   refused    `reasons`, the most telling first, and the last change of the coupon, if it has one
--   key_reused another request has used the key
--   unknown    no campaign of the shard has such a coupon
-- Locks      the shard (outbox_lock) until the transaction ends: nobody else changes a coupon of the shard, or issues
-- Raises     what outbox_append_2() raises; unique_violation or deadlock_detected if other shards use the same orders or
--            keys, three times in a row
--
-- Merchants and keys are not of one shard: when another shard has just used the same order or key, all is judged again.
-- Rows are inserted in the order of merchants, orders and keys. So two shards wait for each other only if their callers use
-- the same orders and the same keys crosswise; Postgres then stops one of them after a second, and it judges again, too.
--
-- Each row is looked up by itself, LATERAL and with a limit: so the plan that was made while the table was empty looks into
-- the indexes, too. Joined in a plain way, 300 changes took longer with every change that there was.
--
-- A coupon that is cancelled puts its seat back on sale if its campaign wants that: it gets the next return number.
--
-- A coupon that is restored after its end expires at once: the walk that makes coupons expire has passed it.
CREATE OR REPLACE FUNCTION change_coupons(
    a_shard smallint, kinds text[], coupons_in uuid[], coupon_keys text[], campaign_keys text[], event_ids uuid[],
    expiry_event_ids uuid[], actors text[], request_ids_in text[], traceparents text[], orders text[], amounts bigint[],
    holders text[], merchants text[], currencies text[], keys_in uuid[], hashes bytea[], tried boolean[]
) RETURNS TABLE (
    item integer, outcome text, reasons text[], nth integer, kind text, changed_at timestamptz, actor text,
    request_id text, order_ref text, amount bigint, user_id text, return_number integer, currency text
)
    LANGUAGE plpgsql AS
$$
#variable_conflict use_column
DECLARE
    the_time timestamptz;
    head     bigint;
    attempts integer := 0;
    -- Of each change that is asked for.
    outcomes text[];
    whys     text[]; -- separated by commas
    nths     integer[]; -- which change of the coupon is returned
    -- Of each event, in the order of positions.
    ids      uuid[];
    types    text[];
    keys     text[];
    subjects text[];
    datas    text[];
    traces   text[];
    requests text[];
BEGIN
    PERFORM outbox_lock(a_shard);
    head := outbox_head(a_shard);
    the_time := clock_timestamp();
    LOOP
        BEGIN
            WITH judged AS (
                SELECT i, kinds[i] AS kind, coupon.id, coupon.campaign_id, coupon.user_id, coupon.expires_at,
                       campaign.merchant_id, campaign.face_value, campaign.currency, campaign.settle_on,
                       kinds[i] = 'cancelled' AND campaign.restock_on_cancel AS is_returned,
                       coalesce(last.nth, 0) AS last_nth,
                       CASE kinds[i] WHEN 'redeemed' THEN orders[i] WHEN 'restored' THEN last.order_ref END AS order_ref,
                       CASE kinds[i] WHEN 'redeemed' THEN coalesce(amounts[i], campaign.face_value)
                                     WHEN 'restored' THEN last.amount END AS amount,
                       coalesce(keyed.nth, used.nth) AS earlier_nth,
                       CASE WHEN campaign.id IS NULL THEN 'unknown'
                            WHEN keyed.request_hash = hashes[i] THEN 'replayed'
                            WHEN keyed.coupon_id IS NOT NULL THEN 'key_reused'
                            WHEN used.coupon_id = coupon.id AND used.amount = coalesce(amounts[i], campaign.face_value)
                                 AND (holders[i] = coupon.user_id) IS NOT FALSE
                                 AND (merchants[i] = campaign.merchant_id) IS NOT FALSE
                                 AND (currencies[i] = campaign.currency) IS NOT FALSE
                                THEN 'replayed'
                       END AS earlier,
                       array_remove(ARRAY [
                           CASE WHEN holders[i] <> coupon.user_id THEN 'not-the-holder' END,
                           CASE WHEN merchants[i] <> campaign.merchant_id THEN 'another-merchant' END,
                           CASE WHEN currencies[i] <> campaign.currency THEN 'another-currency' END,
                           CASE WHEN amounts[i] > campaign.face_value THEN 'amount-too-high' END,
                           CASE WHEN used.coupon_id IS NOT NULL THEN 'order-ref-used' END,
                           CASE WHEN kinds[i] = 'restored' THEN
                                    CASE WHEN last.kind IS DISTINCT FROM 'redeemed' THEN 'not-redeemed'
                                         WHEN orders[i] <> last.order_ref THEN 'another-order' END
                                WHEN last.kind = 'redeemed' THEN 'already-redeemed'
                                WHEN last.kind IN ('cancelled', 'expired') THEN last.kind
                                WHEN (kinds[i] = 'expired') <> (coupon.expires_at <= the_time) THEN
                                    CASE kinds[i] WHEN 'expired' THEN 'not-due' ELSE 'expired' END END
                       ], NULL) AS whys
                FROM generate_series(1, cardinality(coupons_in)) AS i
                     LEFT JOIN LATERAL (SELECT * FROM coupons WHERE id = coupons_in[i] LIMIT 1) AS coupon ON true
                     LEFT JOIN LATERAL (
                         SELECT * FROM campaigns WHERE id = coupon.campaign_id AND shard = a_shard LIMIT 1
                     ) AS campaign ON true
                     LEFT JOIN LATERAL (
                         SELECT * FROM coupon_changes WHERE coupon_id = coupons_in[i] ORDER BY nth DESC LIMIT 1
                     ) AS last ON true
                     LEFT JOIN LATERAL (
                         SELECT * FROM coupon_changes WHERE idempotency_key = keys_in[i] LIMIT 1
                     ) AS keyed ON true
                     LEFT JOIN LATERAL (
                         SELECT * FROM coupon_changes
                         WHERE kind = 'redeemed' AND kinds[i] = 'redeemed' AND merchant_id = campaign.merchant_id
                           AND order_ref = orders[i]
                         LIMIT 1
                     ) AS used ON true
            ), done AS (
                SELECT *, last_nth + 1 AS nth, event_ids[i] AS event_id, actors[i] AS actor,
                       request_ids_in[i] AS request_id, keys_in[i] AS key, hashes[i] AS hash
                FROM judged WHERE earlier IS NULL AND whys = '{}' AND NOT tried[i]
            ), made AS (
                SELECT *, row_number() OVER (ORDER BY i, nth) AS place
                FROM (
                    SELECT i, nth, kind, id, campaign_id, merchant_id, user_id, face_value, currency, settle_on, order_ref,
                           amount, event_id, actor, request_id, key, hash,
                           CASE WHEN is_returned THEN row_number() OVER (PARTITION BY campaign_id, is_returned ORDER BY i)
                               + coalesce((SELECT return_number FROM coupon_changes AS returned
                                           WHERE returned.campaign_id = done.campaign_id AND return_number IS NOT NULL
                                           ORDER BY return_number DESC LIMIT 1), 0) END AS return_number
                    FROM done
                    UNION ALL
                    SELECT i, nth + 1, 'expired', id, campaign_id, merchant_id, user_id, face_value, currency, settle_on, NULL,
                           NULL, expiry_event_ids[i], 'clock', NULL, NULL, NULL, NULL
                    FROM done WHERE kind = 'restored' AND expires_at <= the_time
                ) AS change
            ), inserted AS (
                INSERT INTO coupon_changes (coupon_id, nth, kind, campaign_id, merchant_id, at, position, actor, request_id,
                                            order_ref, amount, idempotency_key, request_hash, return_number)
                SELECT id, nth, kind, campaign_id, merchant_id, the_time, head + place, actor, request_id, order_ref, amount,
                       key, hash, return_number
                FROM made
                ORDER BY merchant_id, order_ref, key
            ), told AS (
                SELECT array_agg(CASE WHEN earlier IS NOT NULL THEN earlier WHEN whys <> '{}' THEN 'refused'
                                      WHEN tried[i] THEN 'possible' ELSE 'changed' END ORDER BY i) AS outcomes,
                       array_agg(array_to_string(whys, ',') ORDER BY i) AS whys,
                       array_agg(CASE WHEN earlier = 'replayed' THEN earlier_nth
                                      WHEN earlier IS NULL AND whys = '{}' AND NOT tried[i] THEN last_nth + 1
                                      ELSE last_nth END ORDER BY i) AS nths
                FROM judged
            ), events AS (
                SELECT array_agg(event_id ORDER BY place) AS ids, array_agg(kind ORDER BY place) AS types,
                       array_agg(campaign_keys[i] ORDER BY place) AS keys, array_agg(coupon_keys[i] ORDER BY place) AS subjects,
                       array_agg(json_strip_nulls(json_build_object(
                           'coupon_id', coupon_keys[i], 'campaign_id', campaign_keys[i], 'user_id', user_id, 'nth', nth,
                           'at', to_char(the_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                           'merchant_id', merchant_id, 'face_value', face_value, 'currency', currency,
                           'settle_on', settle_on, 'order_ref', order_ref, 'amount', amount))::text ORDER BY place) AS datas,
                       array_agg(traceparents[i] ORDER BY place) AS traces, array_agg(request_id ORDER BY place) AS requests
                FROM made
            )
            SELECT told.outcomes, told.whys, told.nths, events.ids, events.types, events.keys, events.subjects, events.datas,
                   events.traces, events.requests
            INTO outcomes, whys, nths, ids, types, keys, subjects, datas, traces, requests
            FROM told CROSS JOIN events;
            EXIT;
        EXCEPTION WHEN unique_violation OR deadlock_detected THEN
            attempts := attempts + 1;
            IF attempts = 3 THEN
                RAISE;
            END IF;
        END;
    END LOOP;
    IF ids IS NOT NULL THEN
        PERFORM outbox_append_2(a_shard, ids, types, keys, subjects, datas, traces, requests);
    END IF;
    RETURN QUERY
    SELECT i, outcomes[i], string_to_array(whys[i], ','), change.nth, change.kind, change.at, change.actor,
           change.request_id, change.order_ref, change.amount, coupon.user_id, change.return_number,
           campaign.currency
    FROM generate_series(1, cardinality(coupons_in)) AS i
         LEFT JOIN LATERAL (SELECT * FROM coupons WHERE id = coupons_in[i] LIMIT 1) AS coupon ON true
         LEFT JOIN LATERAL (SELECT * FROM campaigns WHERE id = coupon.campaign_id LIMIT 1) AS campaign ON true
         LEFT JOIN LATERAL (
             SELECT * FROM coupon_changes WHERE coupon_id = coupons_in[i] AND nth = nths[i] LIMIT 1
         ) AS change ON true
    ORDER BY i;
END
$$;
