-- A face failed, and with it its photo. Nothing happens if the worker does not have the face.
--
-- ARGV: worker, job, index, error, reason of a dead letter or ''.
-- Returns the number of faces that are withdrawn for it while they waited, and the view.

local worker, job, index, error, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local lane, id = lease_of(job, index, worker)
if not lane then
  return {0, view()}
end
if reason ~= '' then
  bury(job, index, lane, reason, call('XPENDING', STREAM[lane], GROUP, id, id, 1)[1][4])
end
return {conclude(job, 'failed', error), view()}
