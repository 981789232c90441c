-- wrk: send at a pace, each connection one request in so many milliseconds; with a token that nobody gave, if one is named.
-- Says at the end what was answered, as one line of JSON.

local threads = {}
local pace = 0
local made = 0
created = 0 -- answers 201
succeeded = 0 -- answers 2xx
other = 0

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  pace = tonumber(args[2])
  local headers = { ["Content-Type"] = "application/json", ["Authorization"] = args[3] }
  wrk.method, wrk.path, wrk.headers = "POST", args[1], headers
  wrk.headers["Host"] = wrk.host .. ":" .. wrk.port
end

function delay()
  return pace
end

function request()
  made = made % 500 + 1
  return wrk.format(nil, nil, nil, string.format('{"imei":"86%013d","micro_op":"push_down"}', made))
end

function response(status)
  if status == 201 then
    created = created + 1
  else
    other = other + 1
  end
  if status >= 200 and status < 300 then
    succeeded = succeeded + 1
  end
end

function done(summary, latency)
  local sum = { created = 0, other = 0, succeeded = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(sum) do
      sum[name] = sum[name] + thread:get(name)
    end
  end
  local errors = summary.errors
  print(string.format(
    '{"created":%d,"succeeded":%d,"other":%d,"broken":%d,"microseconds":%d,"p50":%d,"p99":%d}',
    sum.created, sum.succeeded, sum.other, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration, latency:percentile(50), latency:percentile(99)
  ))
end
