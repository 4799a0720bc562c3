-- An item failed, and with it its job. Nothing happens if the taker does not have the item.
--
-- ARGV: taker, job, index, error, reason of a dead letter or '', whether its time counts for the pace ('counts'),
--       whether the same work may succeed later ('retryable').
-- Returns the number of items that are withdrawn for it while they waited, whether the taker ended the job, 1 or 0, and the
-- view.

local taker, job, index, error, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
go_on()
local lane, id, since = lease_of(job, index, taker)
if not lane then
  return {0, ended_by(job, taker, 'failed'), view()}
end
if reason ~= '' then
  bury(job, index, lane, reason, call('XPENDING', STREAM[lane], GROUP, id, id, 1)[1][4])
end
if ARGV[6] == 'counts' then
  learn_pace(now_us() - since)
end
if ARGV[7] == 'retryable' then
  call('HSET', JOB .. job, 'retryable', 'yes')
end
return {conclude(job, 'failed', error, taker), 1, view()}
