-- outbox_append: outbox_append_2() for events without request ids. The version before calls it, and it goes with the next.
--
-- Arguments, returns, locks, raises: see outbox_append_2().
CREATE OR REPLACE FUNCTION outbox_append(
    a_shard smallint, event_ids uuid[], types text[], keys text[], subjects text[], datas text[],
    traceparents text[]
) RETURNS bigint
    LANGUAGE plpgsql AS
$$
BEGIN
    RETURN outbox_append_2(a_shard, event_ids, types, keys, subjects, datas, traceparents, NULL);
END
$$;
