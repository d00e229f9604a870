-- Lists pending seats whose deadline is past, the oldest first; then those whose deadline is further away
-- than two leases, which means that Redis' clock was set back after they were given.
--
-- KEYS  1 gate  2 pending (seats by deadline, in ms)
-- ARGV  how many seats of each kind, at most
-- Answers seats. Changes nothing.
-- One script because Redis' own clock judges, on the node that holds the campaign's keys.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function between(from, to)
  return redis.call('ZRANGE', KEYS[2], from, to, 'BYSCORE', 'LIMIT', 0, ARGV[1])
end
local seats = between('-inf', string.format('%.0f', now))
local lease = redis.call('HGET', KEYS[1], 'lease')
if lease then
  for _, seat in ipairs(between(string.format('%.0f', now + 2 * lease), '+inf')) do
    seats[#seats + 1] = seat
  end
end
return seats
