-- no-transaction
CREATE INDEX CONCURRENTLY campaigns_expiry_due ON campaigns (expiry_due_at) WHERE expiry_due_at IS NOT NULL;
