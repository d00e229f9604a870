-- Puts pending seats back on sale: those whose commit surely failed.
--
-- KEYS  1 holders  2 pending
-- ARGV  seats
-- Answers for each: `released`, or `kept` when it is not pending (confirmed, or released before).
-- Atomic because a confirmation may come between the look and the release.

local answers = {}
for i, seat in ipairs(ARGV) do
  if redis.call('ZREM', KEYS[2], seat) == 1 then
    redis.call('SREM', KEYS[1], seat)
    answers[i] = 'released'
  else
    answers[i] = 'kept'
  end
end
return answers
