-- The outbox: what a service has to tell, in the order in which it was committed.
--
-- Rows are appended, never updated, and never deleted one by one. A shard's positions are
-- 1, 2, 3, … without a gap, in the order of commit: the shard's lock is held from the reading of
-- the highest position to the commit that adds the next ones. What a row may hold is judged by
-- outbox_append() for all at once: as CHECK constraints it took a tenth of the time of a whole batch.

CREATE TABLE outbox (
    shard       smallint    NOT NULL,
    position    bigint      NOT NULL,
    event_id    uuid        NOT NULL, -- a ULID
    type        text        NOT NULL, -- one token of a NATS subject, e.g. issued
    key         text        NOT NULL, -- one token of a NATS subject: what the event is filed under
    subject     text        NOT NULL, -- what the event is about, in the sense of CloudEvents
    data        json        NOT NULL, -- kept byte for byte
    traceparent text,
    time        timestamptz NOT NULL, -- of the append, by the clock of the database
    CONSTRAINT outbox_pkey PRIMARY KEY (shard, position)
) PARTITION BY RANGE (position);

-- What the NATS server takes: one row, kept by the relays.
CREATE TABLE outbox_limits (
    single      boolean NOT NULL DEFAULT true,
    max_payload integer NOT NULL, -- headers and body of a message, in bytes
    CONSTRAINT outbox_limits_pkey PRIMARY KEY (single),
    CONSTRAINT outbox_limits_are_single CHECK (single)
);
INSERT INTO outbox_limits (max_payload) VALUES (1048576); -- the default of nats-server

-- Makes sure that the partition of `a_position` and the one after it are there. A partition holds
-- a million positions. It is made apart and attached, which does not block readers or writers.
CREATE FUNCTION outbox_add_partitions(a_position bigint) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    size CONSTANT bigint := 1000000;
    n    bigint;
BEGIN
    FOR n IN a_position / size .. a_position / size + 1 LOOP
        CONTINUE WHEN to_regclass(format('outbox_%s', n)) IS NOT NULL;
        -- One at a time, whatever the shard; then look again. A lock on a table, not an advisory one:
        -- only that lets the session see which tables others have made since it first looked.
        LOCK TABLE ONLY outbox IN SHARE UPDATE EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass(format('outbox_%s', n)) IS NOT NULL;
        EXECUTE format('CREATE TABLE outbox_%s (LIKE outbox INCLUDING CONSTRAINTS)', n);
        EXECUTE format('ALTER TABLE outbox ATTACH PARTITION outbox_%s FOR VALUES FROM (%s) TO (%s)',
                       n, n * size, (n + 1) * size);
    END LOOP;
END
$$;

SELECT outbox_add_partitions(1);

-- Which partition has the highest position of a shard. A row is written once in a million positions.
CREATE TABLE outbox_heads (
    shard     smallint NOT NULL,
    partition bigint   NOT NULL,
    CONSTRAINT outbox_heads_pkey PRIMARY KEY (shard)
);

-- These are plpgsql and not sql, because plpgsql keeps the plans of its statements.

-- The highest position of a shard, 0 when it has none. Read from the high end of the index of its newest
-- partition, by name: a plan for all partitions would lock each of them, which took 1 ms for a year of them.
CREATE FUNCTION outbox_head(a_shard smallint) RETURNS bigint
    LANGUAGE plpgsql STABLE AS
$$
DECLARE
    newest bigint;
    head   bigint;
BEGIN
    SELECT partition INTO newest FROM outbox_heads WHERE shard = a_shard;
    IF newest IS NULL THEN
        RETURN 0;
    END IF;
    EXECUTE 'SELECT position FROM outbox_' || newest || ' WHERE shard = $1 ORDER BY position DESC LIMIT 1'
        INTO head USING a_shard;
    RETURN coalesce(head, 0);
END
$$;

-- Takes the shard's lock until the end of the transaction. Whoever takes it and then reads, in
-- another statement, sees what the last holder committed.
CREATE FUNCTION outbox_lock(a_shard smallint) RETURNS void
    LANGUAGE plpgsql AS
$$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('outbox_append'), a_shard);
END
$$;

-- Refuses what cannot be published, in the name of a constraint: types and keys that are no token of a
-- subject, trace contexts that are no header, what is too long (data: over 64 KiB), and events that would not
-- fit into a message: 1 KiB is for what the relay adds, and a character of the subject may take six times its
-- bytes in JSON.
CREATE FUNCTION outbox_check(types text[], keys text[], subjects text[], datas text[], traceparents text[])
    RETURNS void
    LANGUAGE plpgsql STABLE AS
$$
DECLARE
    longest record;
    refusal text;
BEGIN
    -- Most batches are of one type and one key, and then one look is enough.
    IF types[1] = ALL (types) AND keys[1] = ALL (keys) THEN
        types := types[1:1];
        keys := keys[1:1];
    END IF;
    SELECT max(length(subject)) AS subject, max(octet_length(data)) AS data,
           max(octet_length(data) + 6 * octet_length(subject)) AS message
    INTO longest FROM (SELECT unnest(subjects) AS subject, unnest(datas) AS data) AS event;
    refusal := CASE
        WHEN array_to_string(types || keys, '') ~ '[\s.*>]' THEN 'outbox_subjects_are_tokens'
        WHEN EXISTS (SELECT FROM unnest(types) AS type WHERE length(type) NOT BETWEEN 1 AND 64)
            THEN 'outbox_type_is_short'
        WHEN EXISTS (SELECT FROM unnest(keys) AS key WHERE length(key) NOT BETWEEN 1 AND 64)
            THEN 'outbox_key_is_short'
        WHEN longest.data > 65536 THEN 'outbox_data_is_small'
        WHEN longest.message > (SELECT max_payload - 1024 FROM outbox_limits WHERE single)
            THEN 'outbox_event_fits_a_message'
        WHEN longest.subject > 1024 THEN 'outbox_subject_is_short'
        WHEN array_to_string(traceparents, '') = '' THEN NULL
        WHEN array_to_string(traceparents, '') ~ '[[:cntrl:]]' THEN 'outbox_traceparents_are_headers'
        WHEN EXISTS (SELECT FROM unnest(traceparents) AS traceparent WHERE length(traceparent) > 255)
            THEN 'outbox_traceparent_is_short'
    END;
    IF refusal IS NOT NULL THEN
        RAISE EXCEPTION 'the outbox refuses an event: %', refusal
            USING ERRCODE = 'check_violation', CONSTRAINT = refusal;
    END IF;
END
$$;

-- Appends events in the order given and answers the position of the last. The only way in.
-- The lock lasts to the commit: call it as the last statement of a transaction, or batch.
CREATE FUNCTION outbox_append(
    a_shard smallint, event_ids uuid[], types text[], keys text[], subjects text[], datas text[],
    traceparents text[]
) RETURNS bigint
    LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan -- the same for one event and for a thousand
AS
$$
DECLARE
    head bigint;
    last bigint;
BEGIN
    PERFORM outbox_check(types, keys, subjects, datas, traceparents);
    PERFORM outbox_lock(a_shard);
    head := outbox_head(a_shard);
    last := head + cardinality(event_ids);
    -- Looked at once in a hundred thousand positions, a million ahead.
    IF last / 100000 <> head / 100000 THEN
        PERFORM outbox_add_partitions(last);
    END IF;
    IF head = 0 OR last / 1000000 <> head / 1000000 THEN
        INSERT INTO outbox_heads (shard, partition) VALUES (a_shard, last / 1000000)
        ON CONFLICT (shard) DO UPDATE SET partition = excluded.partition;
    END IF;
    -- By index, and not from a function, which would first put every element into a store.
    INSERT INTO outbox (shard, position, event_id, type, key, subject, data, traceparent, time)
    SELECT a_shard, head + i, event_ids[i], types[i], keys[i], subjects[i], datas[i]::json, traceparents[i],
           clock_timestamp()
    FROM (SELECT generate_series(1, cardinality(event_ids)) AS i) AS event;
    RETURN last;
END
$$;

-- How far each projection has applied each shard. A row is added with every batch, in its
-- transaction, and old rows go from the low end: nothing is updated in place.
CREATE TABLE projection_positions (
    projection text     NOT NULL,
    shard      smallint NOT NULL,
    position   bigint   NOT NULL,
    CONSTRAINT projection_positions_pkey PRIMARY KEY (projection, shard, position),
    CONSTRAINT projection_positions_start_at_one CHECK (position >= 1)
);

CREATE FUNCTION projection_position(a_projection text, a_shard smallint) RETURNS bigint
    LANGUAGE plpgsql STABLE AS
$$
BEGIN
    RETURN coalesce((SELECT position FROM projection_positions
                     WHERE projection = a_projection AND shard = a_shard
                     ORDER BY position DESC LIMIT 1), 0);
END
$$;

-- Events that a projection could not apply and left out: they wait to be redriven or dropped.
CREATE TABLE parked_events (
    projection text        NOT NULL,
    shard      smallint    NOT NULL,
    position   bigint      NOT NULL,
    event_id   uuid        NOT NULL,
    reason     text        NOT NULL,
    attempts   integer     NOT NULL,
    parked_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT parked_events_pkey PRIMARY KEY (projection, shard, position)
);

-- Puts a table that was made again in schema a_from in the place of the one of this schema, with its owner
-- and its rights (those of single columns aside). What refers to the old table (a view, a foreign key) forbids it,
-- and so does what the new one would not have: triggers, row security, publications.
CREATE FUNCTION outbox_swap_table(a_from text, a_table text) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    old     record;
    granted record;
BEGIN
    SELECT c.oid, c.relowner, c.relacl, c.relrowsecurity INTO STRICT old
    FROM pg_class c WHERE c.oid = format('%I.%I', current_schema, a_table)::regclass;
    IF old.relrowsecurity OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = old.oid AND NOT tgisinternal)
        OR EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = old.oid)
    THEN
        RAISE EXCEPTION 'table % has triggers, row security or a publication, which the new one would not have', a_table;
    END IF;
    IF old.relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('ALTER TABLE %I.%I OWNER TO %I', a_from, a_table, pg_get_userbyid(old.relowner));
    END IF;
    FOR granted IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS to_whom
        FROM aclexplode(old.relacl) WHERE grantee <> old.relowner
    LOOP
        EXECUTE format('GRANT %s ON TABLE %I.%I TO %s', granted.privilege_type, a_from, a_table, granted.to_whom);
    END LOOP;
    EXECUTE format('DROP TABLE %I.%I', current_schema, a_table);
    EXECUTE format('ALTER TABLE %I.%I SET SCHEMA %I', a_from, a_table, current_schema);
END
$$;

-- Drops the partition of positions a_partition * 1,000,000 and up, unless one of the shards has its highest
-- position in it or in the one before: it would go on there.
CREATE FUNCTION outbox_drop_partition(a_partition bigint, shards smallint) RETURNS boolean
    LANGUAGE plpgsql AS
$$
DECLARE
    size CONSTANT bigint := 1000000;
BEGIN
    LOCK TABLE ONLY outbox IN ACCESS EXCLUSIVE MODE; -- nobody appends meanwhile
    IF EXISTS (SELECT FROM generate_series(0, shards - 1) AS shard
               WHERE outbox_head(shard::smallint) / size IN (a_partition - 1, a_partition))
    THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS outbox_%s', a_partition);
    RETURN true;
END
$$;
