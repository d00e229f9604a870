-- Load for wrk. TARGETS is a file with a target on each line: method, path, the user if it is always the same, and behind
-- the user a bearer token if it is not TOKEN; other requests name a new user each. FIRST is part of the users' names and
-- differs from run to run. Each request has a body and a token, whatever it asks for, so that the client costs the same. The two threads take the targets by turns,
-- from START and from half the way behind it. At the end it prints its figures in one line.

local thread_count = 0

function setup(thread)
  thread:set("thread_number", thread_count)
  thread_count = thread_count + 1
end

function request()
  count = count + 1
  place = place % #heads + 1
  local body = bodies[place] or (user .. count .. '"}')
  return heads[place] .. #body .. "\r\n\r\n" .. body
end

function init(args)
  heads, bodies = {}, {}
  for line in io.lines(os.getenv("TARGETS")) do
    local request, known, token = line:match("^(%S+ %S+) ?(%S*) ?(%S*)$")
    token = token ~= "" and token or os.getenv("TOKEN")
    heads[#heads + 1] = request .. " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" ..
      "Authorization: Bearer " .. token .. "\r\nContent-Length: "
    bodies[#heads] = known ~= "" and '{"user_id":"' .. known .. '"}' or nil
  end
  count = 0
  place = tonumber(os.getenv("START")) + math.floor(thread_number * #heads / 2)
  user = '{"user_id":"u' .. os.getenv("FIRST") .. "-" .. thread_number .. "-"
end

-- RESULT requests seconds p50 p99 max refused failed; p50, p99 and max in ms. A status above 399 is a refusal.
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT %d %.6f %.3f %.3f %.3f %d %d\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
