-- outbox_head: the highest position of a shard.
--
-- Arguments  a_shard
-- Returns    the highest position that the caller's snapshot sees; 0 when the shard has no event
-- Locks      none
--
-- It reads the high end of the index of the shard's newest partition, and that partition by its name: a plan for
-- all partitions would lock each of them, which took 1 ms with the partitions of a year.
--
-- plpgsql and not sql, here and in projection_position(), because plpgsql keeps the plans of its statements.
CREATE OR REPLACE FUNCTION outbox_head(a_shard smallint) RETURNS bigint
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
