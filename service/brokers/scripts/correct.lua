-- Add to what an account has spent, or take from it, down to nothing.
--
-- It begins with a write that a full memory does not refuse, and so the others are not: what is worked on is paid for.
--
-- KEYS: what the account has spent in its window, the correction's mark, a photo's mark that is forgotten.
-- ARGV: how much, the window in ms, ms to keep the correction's mark ('' for none).

local change, window_ms, once_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
redis.call('DEL', KEYS[3])
if once_ms ~= '' and not redis.call('SET', KEYS[2], 1, 'NX', 'PX', once_ms) then
  return
end
local spent, left_ms = tonumber(redis.call('GET', KEYS[1]) or 0), redis.call('PTTL', KEYS[1])
local after = math.max(0, spent + change)
if after > 0 then
  redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', left_ms > 0 and left_ms or window_ms)
else
  redis.call('DEL', KEYS[1])
end
