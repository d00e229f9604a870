-- outbox_lock: takes a shard's lock until the transaction ends.
--
-- Arguments  a_shard
-- Returns    nothing, when the lock is held; it waits as long as the session's lock_timeout allows
-- Locks      the advisory lock (outbox_lock_class(), shard)
--
-- A transaction that takes the lock and then reads, in another statement, sees everything that the holder before
-- it committed.
CREATE OR REPLACE FUNCTION outbox_lock(a_shard smallint) RETURNS void
    LANGUAGE plpgsql AS
$$
BEGIN
    PERFORM pg_advisory_xact_lock(outbox_lock_class(), a_shard);
END
$$;
