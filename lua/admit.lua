-- Admits users to a campaign's seats, in the order given.
--
-- KEYS  1 gate (hash)  2 holders (set of seats, taken and pending)  3 pending (seats by deadline)
-- ARGV  user ids; the first seat of a user is named `<user>`, the n-th `<user> <n>`
-- Answers one word a user:
--   admitted     the user has a new seat, pending until it is confirmed, released or past its lease;
--                from the second seat of a user on it is `admitted <n>`
--   already      the user has all the seats that the limit allows: tested before everything else, so
--                that a winner gets this answer for ever
--   closed, not_open
--   full         all seats are taken, and some of them are pending. A user who holds a coupon may have lost
--                the seat to one of those (commits come late, and Redis may be restored): Postgres knows
--   sold_out     all seats are taken and confirmed, so that nobody else holds a coupon
--   closed held, not_open held, sold_out held
--                the same for a user who has seats, and fewer than the limit: Postgres knows their coupons
--   unloaded     the gate does not know the campaign: it must be loaded
-- Atomic because duplicate, stock and seat are one decision; Redis' own clock judges the window.

local gate = redis.call('HMGET', KEYS[1], 'state', 'opens_at', 'closes_at', 'quantity', 'limit', 'lease', 'expires_at')
local answers = {}
if not gate[1] then
  for i = 1, #ARGV do answers[i] = 'unloaded' end
  return answers
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit = tonumber(gate[5])
-- A campaign allows 10 at most. The loops below are as long as the limit.
if not (limit <= 100) then return redis.error_reply('ERR the gate allows a user ' .. gate[5] .. ' coupons') end
local taken_before = redis.call('SCARD', KEYS[2])
local left = gate[4] - taken_before

local refusal = nil
if gate[1] == 'closed' or now >= tonumber(gate[3]) then
  refusal = 'closed'
elseif gate[1] == 'draft' or gate[1] == 'paused' or now < tonumber(gate[2]) then
  refusal = 'not_open'
end

local names = ARGV
if limit > 1 then
  names = {}
  for i, user in ipairs(ARGV) do
    names[(i - 1) * limit + 1] = user
    for n = 2, limit do names[(i - 1) * limit + n] = user .. ' ' .. n end
  end
end
local held = redis.call('SMISMEMBER', KEYS[2], unpack(names))

local full = nil
local given = {}
local seats = {}
local deadlines = {}
local deadline = string.format('%.0f', now + gate[6]) -- once, and not for each by Redis
for i = 1, #ARGV do
  local n = 1
  local at = (i - 1) * limit
  while n <= limit and (held[at + n] == 1 or given[names[at + n]]) do n = n + 1 end
  if n > limit then
    answers[i] = 'already'
  elseif refusal then
    answers[i] = n > 1 and refusal .. ' held' or refusal
  elseif left <= 0 then
    full = full or (#seats == 0 and redis.call('ZCARD', KEYS[3]) == 0 and 'sold_out' or 'full')
    answers[i] = n > 1 and full == 'sold_out' and 'sold_out held' or full
  else
    local seat = names[at + n]
    left = left - 1
    given[seat] = true
    seats[#seats + 1] = seat
    deadlines[#deadlines + 1] = deadline
    deadlines[#deadlines + 1] = seat
    answers[i] = n == 1 and 'admitted' or 'admitted ' .. n
  end
end
if #seats > 0 then
  redis.call('SADD', KEYS[2], unpack(seats))
  redis.call('ZADD', KEYS[3], unpack(deadlines))
  redis.call('PEXPIREAT', KEYS[2], gate[7])
  redis.call('PEXPIREAT', KEYS[3], gate[7])
end
return answers
