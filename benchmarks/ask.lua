-- wrk: ask what the lines of a file say, one after the other: "METHOD PATH BODY", the body left out where there is none.
-- Takes that file and the status of a good answer; says at the end what was answered, as one line of JSON.

local requests = {}
local threads = {}
local last = 0
good = 0 -- answers with the wanted status; a global, so that `done` can ask the thread for it
other = 0

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  wanted = tonumber(args[2])
  for line in io.lines(args[1]) do
    local method, path, body = line:match("^(%S+) (%S+) ?(.*)$")
    if body == "" then
      table.insert(requests, wrk.format(method, path))
    else
      table.insert(requests, wrk.format(method, path, { ["Content-Type"] = "application/json" }, body))
    end
  end
end

function request()
  last = last % #requests + 1
  return requests[last]
end

function response(status)
  if status == wanted then
    good = good + 1
  else
    other = other + 1
  end
end

function done(summary, latency)
  local good_of_all, other_of_all = 0, 0
  for _, thread in ipairs(threads) do
    good_of_all = good_of_all + thread:get("good")
    other_of_all = other_of_all + thread:get("other")
  end
  local errors = summary.errors
  print(string.format(
    '{"good":%d,"other":%d,"broken":%d,"microseconds":%d,"p50":%d,"p99":%d}',
    good_of_all, other_of_all, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration, latency:percentile(50), latency:percentile(99)
  ))
end
