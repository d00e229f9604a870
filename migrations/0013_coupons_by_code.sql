-- no-transaction
-- For GET /v1/coupons?code=. A hash: codes are compared for equality alone, and an insert costs 0.6 of that into a tree.
CREATE INDEX CONCURRENTLY coupons_by_code ON coupons USING hash (code);
