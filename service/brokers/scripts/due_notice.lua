-- Lease the notice that has been due longest. Where there are too many, the oldest of who has most make room first.
--
-- ARGV: lease in ms, most notices.
-- Returns 'none'; or 'later', ms until one is due; or 'dropped' and those that made room; or 'due', notice, job, address,
-- outcome, end of the job in microseconds, its error or '', attempts before, the job's origin, '' or nothing, its owner, ''
-- or nothing.

local MOST_AT_ONCE = 100

go_on()
local dropped = {}
for _ = 1, math.min(MOST_AT_ONCE, call('ZCARD', OUTBOX) - tonumber(ARGV[2])) do
  local owner = call('ZREVRANGE', HOLDERS .. 'notices', 0, 0)[1]
  local oldest = owner and call('ZRANGE', HELD .. 'notices:' .. owner, 0, 0)[1]
  if owner and drop_notice(oldest or '', owner) then
    dropped[#dropped + 1] = oldest
  end
end
if dropped[1] then
  return {'dropped', unpack(dropped)}
end
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
