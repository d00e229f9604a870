-- What was changed of campaigns, by whom, and by which request: a row for each change, in its transaction. Rows are only
-- added. `before` and `after` have the fields that differ, as the API names them; `before` is NULL where the
-- campaign was created.
CREATE TABLE campaign_changes (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id uuid NOT NULL,
    version     integer NOT NULL CHECK (version >= 1),
    at          timestamptz NOT NULL DEFAULT now(),
    actor       text NOT NULL CHECK (actor <> ''),
    request_id  text,
    before      jsonb,
    after       jsonb NOT NULL
);
CREATE INDEX campaign_changes_by_campaign ON campaign_changes (campaign_id, id);
