-- The id of the request that caused an event, which the message repeats.

SET LOCAL lock_timeout = '500ms';
ALTER TABLE outbox ADD COLUMN request_id varchar(255);
