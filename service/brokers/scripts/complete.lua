-- Store the result of a face, then acknowledge its entry. Nothing happens if the worker does not have the face.
--
-- ARGV: worker, job, index, result, time to live of a result in ms.

local worker, job, index, result, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
go_on()
local lane, id, since = lease_of(job, index, worker)
if not lane then
  return 0
end
call('SET', RESULT .. job .. ':' .. index, result, 'PX', ttl_ms)
learn_pace(now_us() - since)
set_steps(job, index, tonumber(call('HGET', JOB .. job, 't:' .. index)))
local done = call('HINCRBY', JOB .. job, 'done', 1)
remove_entry(lane, id)
call('HDEL', JOB .. job, 'e:' .. index, 'k:' .. index)
call('DEL', PAYLOAD .. job .. ':' .. index)
if done == tonumber(call('HGET', JOB .. job, 'n')) then
  local keep_ms = call('HGET', JOB .. job, 'keep')
  for _, field in ipairs(call('HKEYS', JOB .. job)) do
    if string.sub(field, 1, 2) == 't:' then
      call('PEXPIRE', RESULT .. job .. ':' .. string.sub(field, 3), keep_ms)
    end
  end
  expire(job)
end
tell_progress(job)
return 1
