-- A time that is infinite cannot be read by the program: one such row ended every process that read it.

SET LOCAL lock_timeout = '500ms';
ALTER TABLE campaigns
    ADD CONSTRAINT campaigns_times_are_finite
        CHECK (isfinite(opens_at) AND isfinite(closes_at) AND isfinite(coupon_expires_at)) NOT VALID;
ALTER TABLE coupons
    ADD CONSTRAINT coupons_times_are_finite CHECK (isfinite(issued_at) AND isfinite(expires_at)) NOT VALID;
ALTER TABLE wallet
    ADD CONSTRAINT wallet_times_are_finite CHECK (isfinite(issued_at) AND isfinite(expires_at)) NOT VALID;
