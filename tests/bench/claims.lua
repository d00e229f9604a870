-- Load for wrk: every request is another user's claim.
-- Environment: CAMPAIGN, TOKEN, FIRST (number of the first user; runs behind one another go on from there)

local thread_count = 0

function setup(thread)
  thread:set("thread_number", thread_count)
  thread_count = thread_count + 1
end

function init(args)
  local headers = "Host: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer " .. os.getenv("TOKEN") .. "\r\n"
  head = "POST /v1/campaigns/" .. os.getenv("CAMPAIGN") .. "/coupons HTTP/1.1\r\n" .. headers .. "Content-Length: "
  prefix = '{"user_id":"u' .. os.getenv("FIRST") .. "-" .. thread_number .. "-"
  count = 0
end

function request()
  count = count + 1
  local body = prefix .. count .. '"}'
  return head .. #body .. "\r\n\r\n" .. body
end

function done(summary, latency, requests)
  io.write(string.format(
    "RESULT %d %.6f %.3f %.3f %.3f %d\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
