-- no-transaction
CREATE UNIQUE INDEX CONCURRENTLY settlement_entries_by_change ON settlement_entries (coupon_id, nth, kind);
