-- Load for wrk, and its figures in one line. With FIRST in the environment every request is the
-- claim of another user, in campaign CAMPAIGN with TOKEN; runs differ by FIRST. Without, it is what
-- wrk's command line says.

local thread_count = 0

function setup(thread)
  thread:set("thread_number", thread_count)
  thread_count = thread_count + 1
end

local function claim()
  count = count + 1
  local body = user .. count .. '"}'
  return head .. #body .. "\r\n\r\n" .. body
end

function init(args)
  if not os.getenv("FIRST") then return end
  count = 0
  user = '{"user_id":"u' .. os.getenv("FIRST") .. "-" .. thread_number .. "-"
  head = "POST /v1/campaigns/" .. os.getenv("CAMPAIGN") .. "/coupons HTTP/1.1\r\nHost: localhost\r\n" ..
    "Content-Type: application/json\r\nAuthorization: Bearer " .. os.getenv("TOKEN") .. "\r\nContent-Length: "
  request = claim
end

-- RESULT requests seconds p50 p99 max (in ms) errors
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT %d %.6f %.3f %.3f %.3f %d\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
