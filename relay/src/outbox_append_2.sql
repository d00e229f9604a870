-- outbox_append_2: appends events to a shard, in the order given. The only way into the outbox.
--
-- Arguments  a_shard; of each event its id (a ULID), type, key, subject, data (JSON), trace context and request id,
--            an array each. Only trace contexts and request ids may be NULL
-- Returns    the position of the last event; positions of a shard are 1, 2, 3, … in the order of commit
-- Locks      the shard (outbox_lock) until the transaction ends: call it as the last statement
-- Raises     check_violation as outbox_check() does, for request ids as for trace contexts; invalid_text_representation when data is no JSON
CREATE OR REPLACE FUNCTION outbox_append_2(
    a_shard smallint, event_ids uuid[], types text[], keys text[], subjects text[], datas text[],
    traceparents text[], request_ids text[]
) RETURNS bigint
    LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan -- one plan serves one event and a thousand
AS
$$
DECLARE
    head bigint;
    last bigint;
BEGIN
    PERFORM outbox_check(types, keys, subjects, datas, traceparents || request_ids);
    PERFORM outbox_lock(a_shard);
    head := outbox_head(a_shard);
    last := head + cardinality(event_ids);
    -- Partitions are added up to a million positions ahead, so one look in 100,000 positions is enough.
    IF last / 100000 <> head / 100000 THEN
        PERFORM outbox_add_partitions(last);
    END IF;
    IF head = 0 OR last / 1000000 <> head / 1000000 THEN
        INSERT INTO outbox_heads (shard, partition) VALUES (a_shard, last / 1000000)
        ON CONFLICT (shard) DO UPDATE SET partition = excluded.partition;
    END IF;
    -- Arrays are read by index: unnest() would first copy every element into a tuplestore.
    INSERT INTO outbox (shard, position, event_id, type, key, subject, data, traceparent, request_id, time)
    SELECT a_shard, head + i, event_ids[i], types[i], keys[i], subjects[i], datas[i]::json, traceparents[i],
           request_ids[i], clock_timestamp()
    FROM (SELECT generate_series(1, cardinality(event_ids)) AS i) AS event;
    RETURN last;
END
$$;
