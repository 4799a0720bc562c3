-- Where a photo is.
--
-- ARGV: job.
-- Returns nothing for an unknown job, else state, admission in microseconds, expiry in ms, position, progress, error and
-- report; '' for what does not apply.

local job = ARGV[1]
local found = call('HMGET', JOB .. job, 'at', 'end', 'expires', 'progress', 'error', 'report', 'lane', 'k:0')
local at, outcome, expires, progress, error, report, lane, since = unpack(found)
if not at then
  return {}
elseif outcome then
  return {outcome, at, expires, '', progress or '', error or '', report or ''}
elseif since then
  return {'running', at, '', '', progress or '', '', ''}
end
return {'queued', at, '', call('ZRANK', ORDER[lane], job) or '', '', '', ''}
