-- The program reads times of the years 1 to 9999: a row with another one, or an infinite one, ended every process that read
-- it.

SET LOCAL lock_timeout = '500ms';
ALTER TABLE campaigns
    ADD CONSTRAINT campaigns_times_can_be_read CHECK (
        opens_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
        AND closes_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
        AND coupon_expires_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
        AND created_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
        AND closed_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
    ) NOT VALID;
ALTER TABLE coupons
    ADD CONSTRAINT coupons_times_can_be_read CHECK (
        issued_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
        AND expires_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
    ) NOT VALID;
ALTER TABLE wallet
    ADD CONSTRAINT wallet_times_can_be_read CHECK (
        issued_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
        AND expires_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
    ) NOT VALID;
ALTER TABLE settlement_entries
    ADD CONSTRAINT settlement_entries_times_can_be_read CHECK (
        occurred_at BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
    ) NOT VALID;
