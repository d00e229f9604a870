-- Load for wrk. With CAMPAIGN in the environment every request is a claim by another user, with TOKEN; FIRST is part
-- of the users' names and differs from run to run. Without CAMPAIGN every request is `GET /livez`, built in the same
-- steps, so that the client costs the same. At the end it prints its figures in one line.

local thread_count = 0

function setup(thread)
  thread:set("thread_number", thread_count)
  thread_count = thread_count + 1
end

function request()
  count = count + 1
  local body = user .. count .. '"}'
  return head .. #body .. "\r\n\r\n" .. body
end

function init(args)
  local campaign = os.getenv("CAMPAIGN")
  count = 0
  user = '{"user_id":"u' .. (os.getenv("FIRST") or "") .. "-" .. thread_number .. "-"
  local line = campaign and "POST /v1/campaigns/" .. campaign .. "/coupons" or "GET /livez"
  head = line .. " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" ..
    "Authorization: Bearer " .. os.getenv("TOKEN") .. "\r\nContent-Length: "
end

-- RESULT requests seconds p50 p99 max errors; p50, p99 and max in ms
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT %d %.6f %.3f %.3f %.3f %d\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
