-- Drop a notice, or let it come due again. One that is gone stays gone.
--
-- ARGV: notice, attempts so far, ms until it is due again ('' to drop it).

local notice, attempts, again_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
go_on()
if not again_ms then
  drop_notice(notice, call('HGET', NOTICE .. notice, 'owner') or '')
elseif call('EXISTS', NOTICE .. notice) == 1 then
  call('HSET', NOTICE .. notice, 'attempt', attempts)
  call('ZADD', OUTBOX, now_us() / 1000 + again_ms, notice)
  call('PUBLISH', MAIL, '')
end
