-- projection_position: how far a projection has applied a shard.
--
-- Arguments  a_projection, a_shard
-- Returns    the position of the last event that it has applied or parked; 0 before the first
-- Locks      none
CREATE OR REPLACE FUNCTION projection_position(a_projection text, a_shard smallint) RETURNS bigint
    LANGUAGE plpgsql STABLE AS
$$
BEGIN
    RETURN coalesce((SELECT position FROM projection_positions
                     WHERE projection = a_projection AND shard = a_shard
                     ORDER BY position DESC LIMIT 1), 0);
END
$$;
