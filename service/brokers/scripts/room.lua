-- Room for what is kept. When the memory is short the oldest of who holds most goes first, as in brokers/shelf.py; who holds
-- most himself is refused instead. Scripts that want room begin with this, behind lanes.lua.

local MOST_AT_ONCE = 100

-- The server's memory, in bytes: what is taken of it, and all; that is endless where it has no limit.
local function memory()
  local told = call('INFO', 'memory')
  local most = tonumber(string.match(told, '\nmaxmemory:(%d+)'))
  return tonumber(string.match(told, '\nused_memory:(%d+)')), most > 0 and most or math.huge
end

-- Bytes that must go until no more than a share of the memory is taken.
local function excess_bytes(share)
  local taken, all = memory()
  return math.max(0, taken - share * all)
end

-- Whether the results of photos that are admitted find room, too, if they are like those of late: of as many as come while one is
-- kept. It is a guess, and so nothing goes for it.
local function room_for_results(share, keep_ms)
  local results = math.min(waiting_in('interactive') + waiting_in('batch') + in_flight(), keep_ms / 1000 / pace_s())
  local taken, all = memory()
  return taken + results * tonumber(call('HGET', STATE, 'result_bytes') or 0) <= share * all
end

local function held_by(pool, owner)
  return tonumber(call('ZSCORE', HOLDERS .. pool, owner) or 0)
end

-- Strike off the oldest photos of an owner's that have ended: a gateway of a release that counts no bytes has ended them.
local function strike_off_ended(owner)
  for _, entry in ipairs(call('ZRANGE', HELD .. 'photos:' .. owner, 0, MOST_AT_ONCE - 1)) do
    local known = call('HMGET', JOB .. string.match(entry, ' (.+)'), 'at', 'end')
    if known[2] or not known[1] then
      strike_off('photos', owner, entry)
    end
  end
end

-- Whether an owner's photos that have not ended, and what he brings, are no more than a share of the memory, or all he has.
local function may_bring(owner, brings, share)
  strike_off_expired('photos', owner)
  if held_by('photos', owner) == 0 then
    return true
  end
  local _, all = memory()
  if held_by('photos', owner) + brings > share * all then
    strike_off_ended(owner)
  end
  local held = held_by('photos', owner)
  return held == 0 or held + brings <= share * all
end

local function largest_holder(pool)
  local owner
  repeat
    owner = call('ZREVRANGE', HOLDERS .. pool, 0, 0)[1]
  until not owner or not strike_off_expired(pool, owner)
  return owner
end

-- What those have in a pool who hold more than `bytes`, beyond that.
local function above(pool, bytes)
  local sum, holders = 0, call('ZRANGEBYSCORE', HOLDERS .. pool, bytes, '+inf', 'WITHSCORES')
  for at = 2, #holders, 2 do
    sum = sum + tonumber(holders[at]) - bytes
  end
  return sum
end

-- Make room for an owner who brings so many bytes; whether no more than a share of the memory is taken now. Nothing goes where
-- that would not do.
local function make_room(pool, owner, brings, share)
  local excess = excess_bytes(share)
  if excess > 0 and (owner == '' or above(pool, held_by(pool, owner) + brings) < excess) then
    return false
  end
  for _ = 1, MOST_AT_ONCE do
    local holder = excess > 0 and largest_holder(pool)
    if not holder or holder == owner or held_by(pool, holder) <= held_by(pool, owner) + brings then
      break
    end
    local oldest = call('ZRANGE', HELD .. pool .. ':' .. holder, 0, 0)[1]
    forget(string.match(oldest, ' (.+)'))
    strike_off(pool, holder, oldest) -- where the job was gone already
    excess = excess_bytes(share)
  end
  return excess == 0
end
