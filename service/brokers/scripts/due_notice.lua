-- Lease the notice that has been due longest.
--
-- ARGV: lease in ms.
-- Returns 'none'; or 'later', ms until one is due; or 'due', notice, job, address, outcome, end of the job in
-- microseconds, its error or '', attempts before, the job's origin, '' or nothing, its owner, '' or nothing.

go_on()
local now_ms = now_us() / 1000
while true do
  local first = call('ZRANGE', OUTBOX, 0, 0, 'WITHSCORES')
  local notice, due_ms = first[1], tonumber(first[2])
  if not notice then
    return {'none'}
  elseif due_ms > now_ms then
    return {'later', math.ceil(due_ms - now_ms)}
  end
  local found = call('HMGET', NOTICE .. notice, 'job', 'url', 'outcome', 'ended', 'error', 'attempt', 'origin',
    'owner')
  if found[1] then
    call('ZADD', OUTBOX, now_ms + tonumber(ARGV[1]), notice)
    return {'due', notice, unpack(found)}
  end
  call('ZREM', OUTBOX, notice)
end
