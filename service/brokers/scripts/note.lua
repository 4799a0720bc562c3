-- Note how far a photo is, and tell those who watch. Nothing happens if the gateway does not have the job.
--
-- ARGV: gateway, job, progress.

local gateway, job, progress = ARGV[1], ARGV[2], ARGV[3]
if lease_of(job, 0, gateway) then
  call('HSET', JOB .. job, 'progress', progress)
  call('PUBLISH', NEWS .. job, 'progress')
end
