-- The class of the advisory locks of the outbox's shards, as outbox_lock() takes them. Two deployments in one database,
-- each in a schema, have two classes. schema::separate_locks() replaces the function: its text differs between
-- deployments, so it is no repeatable file. A function and not a row, because the planner puts its value into the plan
-- of outbox_lock(): the lock costs no query.

CREATE FUNCTION outbox_lock_class() RETURNS integer
    LANGUAGE sql IMMUTABLE AS
$$
    SELECT hashtext('outbox_append')
$$;
