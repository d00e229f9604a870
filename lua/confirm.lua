-- Confirms seats whose coupons are committed. The holder of a coupon has a seat, also when the seat was
-- released meanwhile, or while the gate is being loaded.
--
-- KEYS  of each campaign  1 gate  2 holders  3 pending  4 loading (set)  5 loader (token)
-- ARGV  of each campaign  how many seats, then their names
-- Answers one word a campaign: `confirmed`; `unloaded` when there is no gate to tell (a load that begins later
-- reads the seats from Postgres); or `failed …` with the error of Redis, which concerns no other campaign.
-- Atomic because a load may finish between two of its steps.

local function confirm(gate, holders, pending, loading, loader, first, last)
  -- First, because it frees memory: Redis refuses for want of it only before the first write of a script.
  redis.call('ZREM', pending, unpack(ARGV, first, last))
  if redis.call('EXISTS', loader) == 1 then
    redis.call('SADD', loading, unpack(ARGV, first, last))
    redis.call('PEXPIRE', loading, 60000)
  end
  local expires_at = redis.call('HGET', gate, 'expires_at')
  if not expires_at then return 'unloaded' end
  -- A key that was there keeps its expiry.
  local added = redis.call('SADD', holders, unpack(ARGV, first, last))
  if added > 0 then redis.call('PEXPIREAT', holders, expires_at) end
  return 'confirmed'
end

local answers = {}
local first = 1
for c = 1, #KEYS / 5 do
  local k = 5 * c
  local last = first + ARGV[first]
  local done, answer = pcall(confirm, KEYS[k - 4], KEYS[k - 3], KEYS[k - 2], KEYS[k - 1], KEYS[k], first + 1, last)
  answers[c] = done and answer or 'failed ' .. (type(answer) == 'table' and answer.err or answer)
  first = last + 1
end
return answers
