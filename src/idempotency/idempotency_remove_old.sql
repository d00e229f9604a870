-- idempotency_remove_old: empties the partition with the keys of the day before yesterday.
--
-- Arguments  none
-- Returns    whether there were keys to remove
-- Locks      that partition, for the moment of a TRUNCATE; it waits for it for 200 ms, because requests wait behind it
-- Raises     lock_not_available: call it again later
--
-- Nobody writes into that partition before tomorrow ends: see the migration of the table.
CREATE OR REPLACE FUNCTION idempotency_remove_old() RETURNS boolean
    LANGUAGE plpgsql
    SET lock_timeout = '200ms'
AS
$$
DECLARE
    old smallint := idempotency_slot(now() + interval '2 days');
BEGIN
    IF NOT EXISTS (SELECT FROM idempotency_keys WHERE slot = old) THEN
        RETURN false;
    END IF;
    EXECUTE format('TRUNCATE idempotency_keys_%s', old);
    RETURN true;
END
$$;
