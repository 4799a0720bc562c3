-- Forget a photo and its result.
--
-- ARGV: job. Returns whether there was one and whether it had not ended, 1 or 0, and the view.

local job = ARGV[1]
go_on()
local known, live = call('EXISTS', JOB .. job), 0
if known == 1 then
  live = 1 - call('HEXISTS', JOB .. job, 'end')
  forget(job)
end
return {known, live, view()}
