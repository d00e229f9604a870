-- The most that the coupons of a campaign may be worth together, in minor units; NULL where the quantity alone is the limit.

SET LOCAL lock_timeout = '500ms';
ALTER TABLE campaigns ADD COLUMN budget bigint;
ALTER TABLE campaigns ADD CONSTRAINT campaigns_budget_pays_a_coupon CHECK (budget >= face_value) NOT VALID;
