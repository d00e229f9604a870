-- Loads a campaign's gate from what Postgres says, in steps, while the old gate (if there is one)
-- goes on; the last step puts the new one in its place at once.
--
-- KEYS  1 gate  2 holders  3 pending  4 loading (set)  5 loader (token)
-- ARGV  step, token, …
--   begin  token ms                        before Postgres is read: from now on confirmations are noted too
--   add    token ms seat…                  adds seats of committed coupons; the token is kept for `ms` from now
--   finish token expires_at field value…   fields: state, opens_at, closes_at, quantity, limit, lease, version
--   set    version expires_at field value… replaces the fields of a gate that is loaded and not newer
--   put    version expires_at field value… replaces the fields of a gate that is loaded, if its version is this
--                                          text ('' for none): nobody has changed it since it was read
-- Answers one word: begun | busy (another loader is at work) | added | loaded | superseded (the token is
-- no longer this loader's: begin again) | set | unloaded.
-- Atomic because seats may be taken and confirmed between any two steps. The token fences: a
-- loader that was frozen can neither add nor finish.

local step, token = ARGV[1], ARGV[2]

if step == 'begin' then
  if not redis.call('SET', KEYS[5], token, 'NX', 'PX', ARGV[3]) then
    local left = redis.call('PTTL', KEYS[5])
    -- A token without an end is not a loader's: it gets one.
    if left < 0 then redis.call('PEXPIRE', KEYS[5], ARGV[3]) end
    -- A time to live above any that a loader sets means that Redis' clock was set back: without this, nobody
    -- could load until the token expires.
    if left <= tonumber(ARGV[3]) then return 'busy' end
    redis.call('SET', KEYS[5], token, 'PX', ARGV[3])
  end
  -- A key of another type would fail every script, this one's last step too.
  for key, type in ipairs({'hash', 'set', 'zset'}) do
    local found = redis.call('TYPE', KEYS[key])['ok']
    if found ~= type and found ~= 'none' then redis.call('UNLINK', KEYS[key]) end
  end
  redis.call('UNLINK', KEYS[4]) -- not DEL, which frees millions of seats before it answers anybody
  return 'begun'
end

if step == 'set' or step == 'put' then
  if redis.call('EXISTS', KEYS[1]) == 0 then return 'unloaded' end
  local version = redis.call('HGET', KEYS[1], 'version') or ''
  local replaces = version == ARGV[2]
  -- A version that is no number is older than any.
  if step == 'set' then replaces = (tonumber(version) or 0) <= tonumber(ARGV[2]) end
  if replaces then
    redis.call('HSET', KEYS[1], 'expires_at', ARGV[3], unpack(ARGV, 4))
    for key = 1, 3 do redis.call('PEXPIREAT', KEYS[key], ARGV[3]) end
  end
  return 'set'
end

if redis.call('GET', KEYS[5]) ~= token then return 'superseded' end

if step == 'add' then
  redis.call('PEXPIRE', KEYS[5], ARGV[3])
  redis.call('SADD', KEYS[4], unpack(ARGV, 4))
  redis.call('PEXPIRE', KEYS[4], 60000) -- far longer than the token, without which it is of no use
  return 'added'
end

-- Seats that are pending stay taken: their commits are on the way.
for _, seat in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  redis.call('SADD', KEYS[4], seat)
end
redis.call('UNLINK', KEYS[2])
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('RENAME', KEYS[4], KEYS[2]) end
redis.call('DEL', KEYS[1], KEYS[5])
redis.call('HSET', KEYS[1], 'expires_at', ARGV[3], unpack(ARGV, 4))
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
redis.call('PEXPIREAT', KEYS[2], ARGV[3])
return 'loaded'
