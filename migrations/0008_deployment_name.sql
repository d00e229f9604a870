-- Which deployment the database belongs to. What was there before deployments had names is 'coupon', and so is what the
-- version before creates. The id tells apart two databases to which an operator gave the same name.

SET LOCAL lock_timeout = '500ms';
ALTER TABLE deployment
    ADD COLUMN name text NOT NULL DEFAULT 'coupon',
    ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD CONSTRAINT deployment_name_is_short CHECK (name ~ '^[a-z0-9-]{1,32}$') NOT VALID;
