-- wrk: send one operation after the other, the devices in turn; say at the end what was answered, as one line of JSON.

local devices = 500
local requests = {}
local threads = {}
created = 0 -- answers 201; a global, so that `done` can ask the thread for it
other = 0

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local path = args[1]
  for device = 1, devices do
    local body = string.format('{"imei":"86%013d","micro_op":"push_down"}', device)
    requests[device] = wrk.format("POST", path, { ["Content-Type"] = "application/json" }, body)
  end
  device = 0
end

function request()
  device = device % devices + 1
  return requests[device]
end

function response(status)
  if status == 201 then
    created = created + 1
  else
    other = other + 1
  end
end

function done(summary, latency)
  local created_by_all, other_by_all = 0, 0
  for _, thread in ipairs(threads) do
    created_by_all = created_by_all + thread:get("created")
    other_by_all = other_by_all + thread:get("other")
  end
  local errors = summary.errors
  print(string.format(
    '{"created":%d,"other":%d,"broken":%d,"microseconds":%d,"p50":%d,"p99":%d}',
    created_by_all, other_by_all, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration, latency:percentile(50), latency:percentile(99)
  ))
end
