-- Withdraw a photo; one that has ended stays as it is.
--
-- ARGV: job, a word for this call. Returns whether it ended the photo, 1 or 0, and the view.

local job, word = ARGV[1], ARGV[2]
go_on()
local found = call('HMGET', JOB .. job, 'at', 'end')
if found[1] and not found[2] then
  conclude(job, 'cancelled', '', word)
end
return {ended_by(job, word, 'cancelled'), view()}
