-- Whether a cancelled coupon puts its seat back on sale, and which of the seats of its campaign that were put back it is: serial,
-- from 1, as the numbers of coupons are.

SET LOCAL lock_timeout = '500ms';
ALTER TABLE campaigns ADD COLUMN restock_on_cancel boolean NOT NULL DEFAULT false;
ALTER TABLE coupon_changes ADD COLUMN return_number integer;
CREATE UNIQUE INDEX coupon_changes_one_per_return ON coupon_changes (campaign_id, return_number)
    WHERE return_number IS NOT NULL;
