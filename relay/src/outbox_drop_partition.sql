-- outbox_drop_partition: drops a partition of the outbox that no shard writes to any more.
--
-- Arguments  a_partition  its number: it holds the positions from a_partition * 1,000,000 on
--            shards       how many shards there are
-- Returns    true when the partition is gone; false when it stays, because the head of a shard is in it or in the
--            one before, and that shard's next events would go there
-- Locks      ACCESS EXCLUSIVE on `outbox` until the transaction ends, for which appends wait: set lock_timeout
--
-- Whether the events may go (age, stream, projections) is decided by its caller, retention.rs.
CREATE OR REPLACE FUNCTION outbox_drop_partition(a_partition bigint, shards smallint) RETURNS boolean
    LANGUAGE plpgsql AS
$$
DECLARE
    size CONSTANT bigint := 1000000;
BEGIN
    LOCK TABLE ONLY outbox IN ACCESS EXCLUSIVE MODE; -- no head moves meanwhile
    IF EXISTS (SELECT FROM generate_series(0, shards - 1) AS shard
               WHERE outbox_head(shard::smallint) / size IN (a_partition - 1, a_partition))
    THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS outbox_%s', a_partition);
    RETURN true;
END
$$;
