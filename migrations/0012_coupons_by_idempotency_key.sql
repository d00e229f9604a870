-- no-transaction
CREATE UNIQUE INDEX CONCURRENTLY coupons_idempotency_key ON coupons (idempotency_key) WHERE idempotency_key IS NOT NULL;
