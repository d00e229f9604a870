-- What the sweeper reads twice a second, each part in proportion to what is live or due. Not CONCURRENTLY: two
-- migrators would wait for each other. A build blocks no claim, since claims only read campaigns; changes of
-- campaigns wait for about a second per million of them. campaigns_due is what the version before reads.

SET LOCAL lock_timeout = '500ms';
CREATE INDEX campaigns_opening ON campaigns (opens_at) WHERE state = 'scheduled';
CREATE INDEX campaigns_closing ON campaigns (closes_at) WHERE state IN ('scheduled', 'open', 'paused');
CREATE INDEX campaigns_live ON campaigns (id) WHERE state IN ('scheduled', 'open', 'paused');
CREATE INDEX campaigns_drafts ON campaigns (id) WHERE state = 'draft';
CREATE INDEX campaigns_closed ON campaigns (least(closed_at, closes_at), id) WHERE state = 'closed';
