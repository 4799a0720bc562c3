-- Store the result of a photo, then end its job. Nothing happens if the gateway does not have the job.
--
-- ARGV: gateway, job, result, its report. Returns whether this ended the job, 1 or 0, and the view.

local gateway, job, result, report = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
go_on()
local lane, _, since = lease_of(job, 0, gateway)
if lane then
  call('SET', RESULT .. job .. ':0', result, 'PX', call('HGET', JOB .. job, 'keep'))
  call('HSET', JOB .. job, 'report', report)
  local usual_bytes = tonumber(call('HGET', STATE, 'result_bytes') or 0)
  call('HSET', STATE, 'result_bytes', exact(usual_bytes + NEWEST_WEIGHT * (#result - usual_bytes)))
  learn_pace(now_us() - since)
  conclude(job, 'succeeded', '', gateway)
end
return {ended_by(job, gateway, 'succeeded'), view()}
