-- A coupon may have several accruals: the key of the table names the change too.

SET LOCAL lock_timeout = '500ms';
ALTER TABLE settlement_entries
    DROP CONSTRAINT settlement_entries_pkey,
    ADD CONSTRAINT settlement_entries_pkey PRIMARY KEY USING INDEX settlement_entries_by_change;
