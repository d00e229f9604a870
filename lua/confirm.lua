-- Confirms seats whose coupons are committed. The holder of a coupon has a seat, also when the seat was
-- released meanwhile, or while the gate is being loaded.
--
-- KEYS  1 gate  2 holders  3 pending  4 loading (set)  5 loader (token)
-- ARGV  seats
-- Answers `confirmed` for each, or `unloaded` for each when there is no gate to tell (a load that
-- begins later reads them from Postgres).
-- Atomic because a load may finish between two of its steps.

-- First, because it frees memory: Redis refuses for want of it only before the first write of a script.
redis.call('ZREM', KEYS[3], unpack(ARGV))
local answer = 'unloaded'
if redis.call('EXISTS', KEYS[5]) == 1 then
  redis.call('SADD', KEYS[4], unpack(ARGV))
  redis.call('PEXPIRE', KEYS[4], 60000)
end
local expires_at = redis.call('HGET', KEYS[1], 'expires_at')
if expires_at then
  redis.call('SADD', KEYS[2], unpack(ARGV))
  redis.call('PEXPIREAT', KEYS[2], expires_at)
  answer = 'confirmed'
end
local answers = {}
for i = 1, #ARGV do answers[i] = answer end
return answers
