-- When a campaign was closed before its closes_at. The gate of a closed campaign is kept for a day after that. NULL
-- where the version before has closed it: the sweeper dates those.

SET LOCAL lock_timeout = '500ms';
ALTER TABLE campaigns ADD COLUMN closed_at timestamptz;
