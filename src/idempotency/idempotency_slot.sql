-- idempotency_slot: the partition of `idempotency_keys` for the keys of a moment.
--
-- Arguments  a_time
-- Returns    the number of days from 1970-01-01 (UTC) to a_time, modulo 4
-- Locks      none
CREATE OR REPLACE FUNCTION idempotency_slot(a_time timestamptz) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$
SELECT (floor(extract(epoch FROM a_time) / 86400)::bigint % 4)::smallint
$$;
