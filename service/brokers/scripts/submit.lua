-- Admit all faces of a photo, or none; forget jobs that nobody can be interested in any more.
--
-- ARGV: job, lane, most faces waiting, payload's time to live in ms, ms to keep the job after its end, ms until nobody
--       can be interested in it ('' for ever), then per face: index, steps, payload.
-- Returns 'admitted', 'joined' or 'full'; faces that waited before, seconds a face takes, faces forgotten, and the view.

local job, lane, limit, payload_ttl_ms, keep_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local interest_ms = tonumber(ARGV[6])
local now, forgotten = now_us(), 0

if call('EXISTS', JOB .. job) == 1 then
  return {'joined', waiting_in(lane), tostring(pace_s()), forgotten, view()}
end
open_lanes()
for _, old in ipairs(call('ZRANGEBYSCORE', OVERDUE, '-inf', now / 1000, 'LIMIT', 0, FORGOTTEN_AT_ONCE)) do
  forgotten = forgotten + forget(old)
end
local waiting, count = waiting_in(lane), (#ARGV - 6) / 3
if not has_room(waiting, count, limit) then
  return {'full', waiting, tostring(pace_s()), forgotten, view()}
end
local steps = {}
for at = 7, #ARGV, 3 do
  call('SET', PAYLOAD .. job .. ':' .. ARGV[at], ARGV[at + 2], 'PX', payload_ttl_ms)
  steps[#steps + 1] = ARGV[at]
  steps[#steps + 1] = ARGV[at + 1]
end
admit(job, lane, now, keep_ms, steps)
if interest_ms then
  call('ZADD', OVERDUE, now / 1000 + interest_ms, job)
end
return {'admitted', waiting, tostring(pace_s()), forgotten, view()}
