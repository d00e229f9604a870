-- Postgres: who may do what. Run by a superuser, after each `coupon migrate`, which the owner of the database
-- runs: `psql -v ON_ERROR_STOP=1 -f postgres.sql coupon`. The owner is no superuser, and nobody else may change
-- or delete what is in the outbox. The passwords are here to be replaced.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{coupon_api,coupon_relay,coupon_projector,coupon_replay,coupon_reader}'::text[] LOOP
        IF to_regrole(name) IS NULL THEN
            EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L', name, replace(name, 'coupon_', '') || '-password');
        END IF;
    END LOOP;
END
$$;

-- Nothing by default: functions are everybody's otherwise, and a temporary table could take the name of a real one.
REVOKE ALL ON DATABASE coupon FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE coupon TO coupon_api, coupon_relay, coupon_projector, coupon_replay, coupon_reader;
GRANT USAGE ON SCHEMA public TO coupon_api, coupon_relay, coupon_projector, coupon_replay, coupon_reader;

-- Every process looks at its start whether the schema is the one that it knows.
GRANT SELECT ON _sqlx_migrations, schema_functions, deployment
    TO coupon_api, coupon_relay, coupon_projector, coupon_replay, coupon_reader;

-- The API: campaigns and their states; coupons and events by the functions alone, which act as the owner.
GRANT SELECT, INSERT, UPDATE (state, version) ON campaigns TO coupon_api;
GRANT SELECT ON coupons, wallet TO coupon_api;
ALTER FUNCTION issue_batch SECURITY DEFINER SET search_path = public, pg_temp;
ALTER FUNCTION outbox_append SECURITY DEFINER SET search_path = public, pg_temp;
GRANT EXECUTE ON FUNCTION issue_batch, outbox_append TO coupon_api;

-- Reads one partition by its name, on which nobody else has a right.
ALTER FUNCTION outbox_head SECURITY DEFINER SET search_path = public, pg_temp;

-- The relay: reads the outbox, and notes what the NATS server takes. Partitions past retention it drops by the
-- function alone, which acts as the owner. Its advisory lock needs no right.
GRANT SELECT ON outbox, outbox_epochs, outbox_limits, projection_positions TO coupon_relay;
GRANT UPDATE (max_payload) ON outbox_limits TO coupon_relay;
ALTER FUNCTION outbox_drop_partition SECURITY DEFINER SET search_path = public, pg_temp;
GRANT EXECUTE ON FUNCTION outbox_head, projection_position, outbox_drop_partition TO coupon_relay;

-- The projector: adds to its tables, parks what it cannot apply, removes old positions, and takes from the outbox
-- what the stream has lost. The audit goes on where it is, and reads everything.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO coupon_projector;
GRANT INSERT ON wallet, settlement_entries, parked_events, projection_positions TO coupon_projector;
GRANT DELETE ON projection_positions TO coupon_projector;
GRANT EXECUTE ON FUNCTION outbox_head, projection_position TO coupon_projector;

-- Replays: read the outbox and what has become of its events, and note how a run stands.
GRANT SELECT ON outbox, outbox_epochs, outbox_replays TO coupon_replay;
GRANT INSERT, UPDATE (state, ended_at) ON outbox_replays TO coupon_replay;
GRANT EXECUTE ON FUNCTION outbox_head TO coupon_replay;

-- The audit and reports: read everything, change nothing.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO coupon_reader;
GRANT EXECUTE ON FUNCTION outbox_head, projection_position TO coupon_reader;
