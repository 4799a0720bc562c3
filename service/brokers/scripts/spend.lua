-- Charge a photo, unless the quota is spent.
--
-- KEYS: what the account has spent in its window, the photo's mark.
-- ARGV: the photo's price, the quota, the window in ms, ms to keep the mark ('' for none).
-- Returns 'charged', 'known' or 'spent'; what was spent; ms until the window ends.

local price, quota, window_ms, mark_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local spent, left_ms = tonumber(redis.call('GET', KEYS[1]) or 0), redis.call('PTTL', KEYS[1])
if left_ms < 0 then
  left_ms = window_ms
end
if mark_ms ~= '' and redis.call('EXISTS', KEYS[2]) == 1 then
  return {'known', spent, left_ms}
elseif spent >= quota then
  return {'spent', spent, left_ms}
end
redis.call('SET', KEYS[1], string.format('%.0f', spent + price), 'PX', math.max(1, left_ms))
if mark_ms ~= '' then
  redis.call('SET', KEYS[2], 1, 'PX', mark_ms)
end
return {'charged', spent + price, left_ms}
