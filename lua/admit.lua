-- Admits users to the seats of campaigns, in the order given.
--
-- KEYS  of each campaign  1 gate (hash)  2 holders (set of seats, taken and pending)  3 pending (seats by deadline)
-- ARGV  of each campaign  how many users, then their ids; the first seat of a user is named `<user>`, the n-th
--       `<user> <n>`
-- Answers one word a user:
--   admitted     the user has a new seat, pending until it is confirmed, released or past its lease;
--                from the second seat of a user on it is `admitted <n>`
--   already      the user has all the seats that the limit allows: tested before everything else, so
--                that a winner gets this answer for ever
--   closed, not_open
--   full         all seats are taken, and some of them are pending. A user who holds a coupon may have lost
--                the seat to one of those (commits come late, and Redis may be restored): Postgres knows
--   sold_out     all seats are taken and confirmed, so that nobody else holds a coupon
--   closed held <n>, not_open held <n>, full held <n>, sold_out held <n>
--                the same for a user who has n seats, and fewer than the limit: Postgres knows their coupons
--   unloaded     the gate does not know the campaign: it must be loaded
--   failed …     the error of Redis, e.g. a key of another type. Other campaigns are not concerned
-- Atomic because duplicate, stock and seat are one decision; Redis' own clock judges the window.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers = {}

-- Admits the users ARGV[first] to ARGV[last] of one campaign; the answer to ARGV[i] is answers[i - skipped].
local function admit(gate_key, holders_key, pending_key, first, last, skipped)
  local gate = redis.call('HMGET', gate_key, 'state', 'opens_at', 'closes_at', 'quantity', 'limit', 'lease', 'expires_at')
  if not gate[1] then
    for i = first, last do answers[i - skipped] = 'unloaded' end
    return
  end
  local limit = tonumber(gate[5])
  -- A campaign allows 10 at most. The loops below are as long as the limit.
  if not (limit <= 100) then error('ERR the gate allows a user ' .. gate[5] .. ' coupons', 0) end
  local taken_before = redis.call('SCARD', holders_key)
  local left = gate[4] - taken_before

  local refusal = nil
  if gate[1] == 'closed' or now >= tonumber(gate[3]) then
    refusal = 'closed'
  elseif gate[1] == 'draft' or gate[1] == 'paused' or now < tonumber(gate[2]) then
    refusal = 'not_open'
  end

  local names = {}
  for i = first, last do
    names[#names + 1] = ARGV[i]
    for n = 2, limit do names[#names + 1] = ARGV[i] .. ' ' .. n end
  end
  local held = redis.call('SMISMEMBER', holders_key, unpack(names))

  local given = {}
  local seats = {}
  local deadlines = {}
  local deadline = string.format('%.0f', now + gate[6]) -- once, and not for each by Redis
  for i = first, last do
    local n = 1
    local at = (i - first) * limit
    while n <= limit and (held[at + n] == 1 or given[names[at + n]]) do n = n + 1 end
    local answer = nil
    if n > limit then
      answer = 'already'
    elseif refusal or left <= 0 then
      refusal = refusal or (#seats == 0 and redis.call('ZCARD', pending_key) == 0 and 'sold_out' or 'full')
      local seats_held = n - 1
      -- A seat that is released leaves those behind it.
      for later = n + 1, limit do
        if held[at + later] == 1 or given[names[at + later]] then seats_held = seats_held + 1 end
      end
      answer = seats_held > 0 and refusal .. ' held ' .. seats_held or refusal
    else
      local seat = names[at + n]
      left = left - 1
      given[seat] = true
      seats[#seats + 1] = seat
      deadlines[#deadlines + 1] = deadline
      deadlines[#deadlines + 1] = seat
      answer = n == 1 and 'admitted' or 'admitted ' .. n
    end
    answers[i - skipped] = answer
  end
  if #seats > 0 then
    redis.call('SADD', holders_key, unpack(seats))
    redis.call('ZADD', pending_key, unpack(deadlines))
    -- A key that was there keeps its expiry.
    if taken_before == 0 then redis.call('PEXPIREAT', holders_key, gate[7]) end
    if redis.call('ZCARD', pending_key) == #seats then redis.call('PEXPIREAT', pending_key, gate[7]) end
  end
end

local first = 1
for c = 1, #KEYS / 3 do
  local last = first + ARGV[first]
  local done, why = pcall(admit, KEYS[3 * c - 2], KEYS[3 * c - 1], KEYS[3 * c], first + 1, last, c)
  if not done then
    why = 'failed ' .. (type(why) == 'table' and why.err or why)
    for i = first + 1, last do answers[i - c] = why end
  end
  first = last + 1
end
return answers
