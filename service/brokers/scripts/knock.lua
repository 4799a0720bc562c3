-- Let a request pass, or say how long it has to wait (GCRA).
--
-- KEYS: when the account's requests so far would have come, had they come evenly, in microseconds.
-- ARGV: microseconds between two requests, requests at once. Returns microseconds to wait, and requests that may follow.

local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local due = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
if due > now + (burst + 1) * interval then -- the server's clock was set back
  due = now
end
local wait = due - now - (burst - 1) * interval
if wait > 0 then
  return {math.ceil(wait), 0}
end
due = due + interval
redis.call('PERSIST', KEYS[1]) -- no full memory refuses this, nor what comes behind it: who asks may want to make room
redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000))
return {0, math.floor(burst - (due - now) / interval + 0.000001)}
