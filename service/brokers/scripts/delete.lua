-- Forget a photo and its result.
--
-- ARGV: job. Returns whether there was one, 1 or 0, and the view.

local job = ARGV[1]
go_on()
local known = call('EXISTS', JOB .. job)
if known == 1 then
  forget(job)
end
return {known, view()}
