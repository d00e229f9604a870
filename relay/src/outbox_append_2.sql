-- outbox_append_2: appends events to a shard, in the order given. The only way into the outbox.
--
-- Arguments  a_shard; of each event its id (a ULID), type, key, subject, data (JSON), trace context and request id,
--            an array each. Only trace contexts and request ids may be NULL
-- Returns    the position of the last event; positions of a shard are 1, 2, 3, … in the order of commit
-- Locks      the shard (outbox_lock) until the transaction ends: call it as the last statement
-- Raises     check_violation as outbox_check() does, and with outbox_request_ids_are_headers as CONSTRAINT when a request
--            id has a line break; string_data_right_truncation when one has more than 255 characters;
--            invalid_text_representation when data is no JSON
CREATE OR REPLACE FUNCTION outbox_append_2(
    a_shard smallint, event_ids uuid[], types text[], keys text[], subjects text[], datas text[],
    traceparents text[], request_ids text[]
) RETURNS bigint
    LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan -- one plan serves one event and a thousand
AS
$$
DECLARE
    requests text := array_to_string(request_ids, ''); -- all at once: a look at each took a tenth of the batch
    head bigint;
    last bigint;
BEGIN
    PERFORM outbox_check(types, keys, subjects, datas, traceparents);
    IF strpos(requests, E'\n') > 0 OR strpos(requests, E'\r') > 0 THEN
        RAISE EXCEPTION 'the outbox refuses an event: its request id has a line break'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'outbox_request_ids_are_headers';
    END IF;
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
