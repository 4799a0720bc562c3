-- Keep the result of a photo that never was in the queue.
--
-- ARGV: job, result, its report, ms to keep both, its owner or ''. Returns when it expires, Unix time in ms; nothing where work
-- may want the memory.

local MOST_MEMORY = 0.5
local job, result, report, keep_ms, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not make_room('kept', owner, #result, MOST_MEMORY) then
  return false
end
local now = now_us()
local expires_ms = exact(now / 1000 + tonumber(keep_ms))
call('SET', RESULT .. job .. ':0', result, 'PX', keep_ms)
call('HSET', JOB .. job, 'at', exact(now), 't:0', 0, 'end', 'succeeded', 'expires', expires_ms, 'report', report)
if owner ~= '' then
  call('HSET', JOB .. job, 'owner', owner)
end
note_held(job, 'kept', keep_ms)
call('PEXPIRE', JOB .. job, keep_ms)
return expires_ms
