-- Postgres: the rights of each role, in the database that psql is connected to. The owner of the database, which is no
-- superuser, runs `coupon migrate`; after each migration a superuser runs this file with
--
--     psql -f postgres.sql coupon
--
-- or, if the tables are in another schema than `public`, with `-v schema=shop` as well. It is one transaction: if a
-- statement fails, nothing is changed, and psql ends with 3. Only the owner may update or delete rows of the outbox.
-- Replace the passwords. Roles belong to the whole server: for a second deployment on it, replace `coupon_` as well.

\set ON_ERROR_STOP on
\if :{?schema}
\else
    \set schema public
\endif

BEGIN;
-- Every name below without a schema is one of this schema.
SET LOCAL search_path = :"schema";

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

-- No rights by default: otherwise every role may call functions, and a temporary table could hide a real one.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE ALL ON SCHEMA :"schema" FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA :"schema" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO coupon_api, coupon_relay, coupon_projector, coupon_replay, coupon_reader;
GRANT USAGE ON SCHEMA :"schema" TO coupon_api, coupon_relay, coupon_projector, coupon_replay, coupon_reader;

-- At its start, every process checks that the schema is the one that it knows.
GRANT SELECT ON _sqlx_migrations, schema_functions, deployment
    TO coupon_api, coupon_relay, coupon_projector, coupon_replay, coupon_reader;

-- Every process of the service reports how far relays and projections are. Nothing of an event can be read so.
GRANT SELECT (shard, position, time) ON outbox TO coupon_api;
GRANT SELECT ON outbox_epochs, outbox_halts TO coupon_api, coupon_relay;
GRANT SELECT ON projection_positions TO coupon_api; -- projection_position() reads it with the rights of its caller
GRANT SELECT (projection, shard) ON parked_events TO coupon_api, coupon_relay;
GRANT EXECUTE ON FUNCTION outbox_head, projection_position TO coupon_api;

-- The API: campaigns and their states; coupons and events only through the functions, which run as the owner.
GRANT SELECT, INSERT, UPDATE (name, merchant_id, face_value, currency, quantity, budget, per_user_limit, opens_at, closes_at,
    coupon_expires_at, coupon_valid_for, settle_on, require_idempotency_key, restock_on_cancel, state, version, closed_at, expired_up_to, expiry_due_at) ON campaigns
    TO coupon_api;
GRANT SELECT, INSERT ON campaign_changes TO coupon_api; -- who changed what: rows are only added
GRANT SELECT ON coupons, coupon_changes, wallet, wallet_changes TO coupon_api;
-- API tokens: only the owner creates, rotates and revokes them.
GRANT SELECT, UPDATE (last_used_at) ON api_tokens TO coupon_api;
GRANT SELECT ON api_token_secrets TO coupon_api;
-- Idempotency keys: old ones are removed only through the function, which runs as the owner.
GRANT SELECT, INSERT ON idempotency_keys TO coupon_api;
ALTER FUNCTION idempotency_remove_old SECURITY DEFINER SET search_path = :"schema", pg_temp;
GRANT EXECUTE ON FUNCTION idempotency_remove_old, idempotency_slot TO coupon_api;
ALTER FUNCTION issue_batch SECURITY DEFINER SET search_path = :"schema", pg_temp; -- for the version before
ALTER FUNCTION issue_batch_2 SECURITY DEFINER SET search_path = :"schema", pg_temp;
ALTER FUNCTION change_coupons SECURITY DEFINER SET search_path = :"schema", pg_temp;
ALTER FUNCTION outbox_append SECURITY DEFINER SET search_path = :"schema", pg_temp;
ALTER FUNCTION outbox_append_2 SECURITY DEFINER SET search_path = :"schema", pg_temp;
GRANT EXECUTE ON FUNCTION issue_batch, issue_batch_2, change_coupons, outbox_append, outbox_append_2 TO coupon_api;

-- Reads one partition by its name; no role has a right on partitions.
ALTER FUNCTION outbox_head SECURITY DEFINER SET search_path = :"schema", pg_temp;

-- The relay: reads the outbox, and stores the largest message that the NATS server accepts. It drops partitions past
-- retention only through the function, which runs as the owner. Its advisory lock needs no right.
GRANT SELECT ON outbox, outbox_epochs, outbox_limits, projection_positions TO coupon_relay;
GRANT UPDATE (max_payload) ON outbox_limits TO coupon_relay;
GRANT INSERT, UPDATE, DELETE ON outbox_halts TO coupon_relay; -- why it has stopped
ALTER FUNCTION outbox_drop_partition SECURITY DEFINER SET search_path = :"schema", pg_temp;
GRANT EXECUTE ON FUNCTION outbox_head, projection_position, outbox_drop_partition TO coupon_relay;

-- The projector: inserts into its tables, parks events that it cannot apply, removes old positions, and reads from the
-- outbox what the stream has lost. The continuous audit runs in the same process, and reads everything.
GRANT SELECT ON ALL TABLES IN SCHEMA :"schema" TO coupon_projector;
GRANT INSERT ON wallet, wallet_changes, settlement_entries, parked_events, projection_positions TO coupon_projector;
GRANT DELETE ON projection_positions TO coupon_projector;
-- A projection that appends events of its own would need EXECUTE on outbox_append_2 as well; none does.
GRANT EXECUTE ON FUNCTION outbox_head, projection_position TO coupon_projector;

-- Replays: read the outbox and its epochs, and store the state of a run.
GRANT SELECT ON outbox, outbox_epochs, outbox_replays TO coupon_replay;
GRANT INSERT, UPDATE (state, ended_at) ON outbox_replays TO coupon_replay;
GRANT EXECUTE ON FUNCTION outbox_head TO coupon_replay;

-- Audit and reports: read everything, change nothing.
GRANT SELECT ON ALL TABLES IN SCHEMA :"schema" TO coupon_reader;
GRANT EXECUTE ON FUNCTION outbox_head, projection_position TO coupon_reader;

-- Only the API compares secrets, of which the table has the hashes, and shows the codes of coupons, which are secrets too.
REVOKE SELECT ON api_token_secrets, coupons FROM coupon_projector, coupon_reader;
GRANT SELECT (id, campaign_id, user_id, nth, number, state, issued_at, expires_at) ON coupons
    TO coupon_projector, coupon_reader;

COMMIT;
