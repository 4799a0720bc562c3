-- Withdraw a photo; one that has ended stays as it is.
--
-- ARGV: job. Returns the view.

local job = ARGV[1]
go_on()
local found = call('HMGET', JOB .. job, 'at', 'end')
if found[1] and not found[2] then
  conclude(job, 'cancelled', '')
end
return view()
