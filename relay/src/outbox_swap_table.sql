-- outbox_swap_table: replaces a table of the current schema by the rebuilt one of the same name in another schema.
--
-- Arguments  a_from   the schema of the rebuilt table
--            a_table  the name of both
-- Returns    nothing; the old table is dropped, and the new one has its owner and its rights, except rights on
--            single columns
-- Locks      ACCESS EXCLUSIVE on both tables until the transaction ends
-- Raises     raise_exception when the old table has triggers, row security or a publication, which the new one
--            would lack; dependent_objects_still_exist when a view or a foreign key refers to the old table
CREATE OR REPLACE FUNCTION outbox_swap_table(a_from text, a_table text) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    old     record;
    granted record;
BEGIN
    SELECT c.oid, c.relowner, c.relacl, c.relrowsecurity INTO STRICT old
    FROM pg_class c WHERE c.oid = format('%I.%I', current_schema, a_table)::regclass;
    IF old.relrowsecurity OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = old.oid AND NOT tgisinternal)
        OR EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = old.oid)
    THEN
        RAISE EXCEPTION 'table % has triggers, row security or a publication, which the new one would not have',
            a_table;
    END IF;
    IF old.relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('ALTER TABLE %I.%I OWNER TO %I', a_from, a_table, pg_get_userbyid(old.relowner));
    END IF;
    FOR granted IN
        SELECT privilege_type AS privilege,
               CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS role
        FROM aclexplode(old.relacl) WHERE grantee <> old.relowner
    LOOP
        EXECUTE format('GRANT %s ON TABLE %I.%I TO %s', granted.privilege, a_from, a_table, granted.role);
    END LOOP;
    EXECUTE format('DROP TABLE %I.%I', current_schema, a_table);
    EXECUTE format('ALTER TABLE %I.%I SET SCHEMA %I', a_from, a_table, current_schema);
END
$$;
