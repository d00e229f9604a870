-- outbox_add_partitions: makes sure that the partition of a position exists, and the one after it.
--
-- Arguments  a_position  a position of any shard
-- Returns    nothing
-- Locks      SHARE UPDATE EXCLUSIVE on `outbox` until the transaction ends, and only when a partition is missing:
--            readers and writers go on
--
-- A partition holds 1,000,000 positions of every shard: PARTITION in retention.rs. It is created as a table of its
-- own and then attached, because CREATE TABLE … PARTITION OF would block readers and writers.
CREATE OR REPLACE FUNCTION outbox_add_partitions(a_position bigint) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    size CONSTANT bigint := 1000000;
    n    bigint;
BEGIN
    FOR n IN a_position / size .. a_position / size + 1 LOOP
        CONTINUE WHEN to_regclass(format('outbox_%s', n)) IS NOT NULL;
        -- One session at a time, whatever its shard; then look again. A lock on a table and not an advisory lock:
        -- only that makes the session see the tables that others have created since it first looked.
        LOCK TABLE ONLY outbox IN SHARE UPDATE EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass(format('outbox_%s', n)) IS NOT NULL;
        EXECUTE format('CREATE TABLE outbox_%s (LIKE outbox INCLUDING CONSTRAINTS)', n);
        EXECUTE format('ALTER TABLE outbox ATTACH PARTITION outbox_%s FOR VALUES FROM (%s) TO (%s)',
                       n, n * size, (n + 1) * size);
    END LOOP;
END
$$;
