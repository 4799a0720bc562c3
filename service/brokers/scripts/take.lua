-- Hand out waiting items, after those have come back whose lease ran out.
--
-- An item with one delivery left is on trial: its taker has nothing else meanwhile. Otherwise one that ends its takers
-- would drag those down that happened to be with it each time.
--
-- ARGV: taker, most items, lease in ms, most deliveries, error of jobs that are given up, ms that interactive jobs take
--       turns ('' for ever), whether the taker knows all that it has ('sure'; after a lost reply it does not), the only
--       lane to take from or '', entries that it knows it has ...
-- Returns the items (job, index, entry, lane, waited ms), reclaimed items per lane, jobs given up (job, items that
-- waited), the view, and when the queue began.

local taker, most, lease_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local max_deliveries, abandoned, turns_ms = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local sure, only = ARGV[7] == 'sure', ARGV[8]
local INTERACTIVE_PER_BATCH = 4

local reclaimed, given_up, known = {}, {}, {}
for at = 9, #ARGV do
  known[ARGV[at]] = true
end

-- Who asks is not silent: what it knows it has stays its own.
local function is_silent(holder, id)
  return holder ~= AT_FRONT and not (holder == taker and known[id])
end

local function reclaim(lane)
  local after, count = '-', 0
  repeat
    local pending = call('XPENDING', STREAM[lane], GROUP, 'IDLE', lease_ms, after, '+', 100)
    for _, entry in ipairs(pending) do
      local id, deliveries = entry[1], entry[4]
      after = '(' .. id
      if is_silent(entry[2], id) then
        local job, index = item_of(lane, id)
        if job and deliveries >= max_deliveries then
          bury(job, index, lane, 'deliveries', deliveries)
          given_up[#given_up + 1] = {job, conclude(job, 'failed', abandoned)}
        elseif job then
          put_to_front(job, index, lane, id, deliveries + 1)
          count = count + 1
        end
      end
    end
  until #pending < 100
  reclaimed[#reclaimed + 1] = count
  return count
end

-- Takers that have long been silent and have nothing need not be remembered.
local function forget_takers(lane)
  for _, fields in ipairs(call('XINFO', 'CONSUMERS', STREAM[lane], GROUP)) do
    local other = {}
    for at = 1, #fields, 2 do
      other[fields[at]] = fields[at + 1]
    end
    if other.pending == 0 and other.idle > math.max(3600000, 10 * lease_ms) and other.name ~= AT_FRONT then
      call('XGROUP', 'DELCONSUMER', STREAM[lane], GROUP, other.name)
    end
  end
end

-- Right after the server has started, or another has taken its place, silence proves nothing: takers could not reach it.
local function looks_silent_because_it_was_away()
  local told, now = call('INFO', 'server'), now_us()
  local server = string.match(told, 'run_id:(%w+)') or ''
  local known = call('HMGET', STATE, 'server', 'since')
  local since = tonumber(known[2])
  if known[1] ~= server then
    since = known[1] and now or now - tonumber(string.match(told, 'uptime_in_seconds:(%d+)')) * 1000000
  elseif since > now then -- the server's clock was set back
    since = now
  end
  if exact(since) ~= known[2] then
    call('HSET', STATE, 'server', server, 'since', exact(since))
  end
  return now - since < lease_ms * 1000
end

local function sweep()
  local again_ms = math.max(1, math.floor(lease_ms / 4))
  if call('PTTL', SWEPT) > again_ms then -- likewise
    call('DEL', SWEPT)
  end
  if not call('SET', SWEPT, '', 'NX', 'PX', again_ms) or looks_silent_because_it_was_away() then
    return
  end
  local found = 0
  for _, lane in ipairs(LANES) do
    found = found + reclaim(lane)
    forget_takers(lane)
  end
  if found > 0 then
    call('PUBLISH', BELL, '')
  end
end

local function next_lane(in_a_row)
  local batch_waits = only ~= 'interactive' and waiting_in('batch') > 0
  if waiting_in('interactive') > 0 and not (batch_waits and in_a_row >= INTERACTIVE_PER_BATCH) then
    return 'interactive'
  end
  return batch_waits and 'batch' or nil
end

-- The first entry of a lane, now pending with the taker, and whether it came from the stream.
local function next_entry(lane)
  local id = call('LPOP', FRONT[lane])
  if id then
    call('XCLAIM', STREAM[lane], GROUP, taker, 0, id, 'JUSTID')
    return id, false
  end
  local read = call('XREADGROUP', 'GROUP', GROUP, taker, 'COUNT', 1, 'STREAMS', STREAM[lane], '>')
  if read then
    return read[1][2][1][1], true
  end
  return nil
end

local function is_on_trial(deliveries)
  return deliveries > 1 and deliveries >= max_deliveries
end

-- Whether the first item of a lane is on trial; only items that came back can be.
local function trial_waits(lane)
  local id = call('LINDEX', FRONT[lane], 0)
  local pending = id and call('XPENDING', STREAM[lane], GROUP, id, id, 1)[1]
  return pending and is_on_trial(pending[4])
end

-- Items that the taker has, and whether one of them is on trial.
local function held()
  local count, trial = 0, false
  for _, lane in ipairs(LANES) do
    for _, entry in ipairs(call('XPENDING', STREAM[lane], GROUP, '-', '+', 1000, taker)) do
      count = count + 1
      trial = trial or is_on_trial(entry[4])
    end
  end
  return count, trial
end

go_on()
call('HSETNX', STATE, 'born', exact(now_us()))
open_lanes()
sweep()
if not sure then
  give_back(taker, known)
end

local now, items = now_us(), {}
local has, trial = held()
while #items < most and not trial do
  local in_a_row = tonumber(call('HGET', STATE, 'in_a_row') or 0)
  local lane = next_lane(in_a_row)
  if not lane then
    break
  end
  trial = trial_waits(lane)
  if trial and has + #items > 0 then
    break
  end
  call('HSET', STATE, 'in_a_row', lane == 'interactive' and in_a_row + 1 or 0)
  local id, is_from_stream = next_entry(lane)
  if not id then
    break
  end
  local job, index = item_of(lane, id)
  if job then
    local waited_ms = (now - tonumber(call('HGET', JOB .. job, 'at'))) / 1000
    local told_ms = string.format('%.3f', waited_ms)
    add_waiting(job, lane, -1)
    call('HSET', JOB .. job, 'k:' .. index, exact(now), 'q:' .. index, told_ms)
    if is_from_stream then
      repeat
        local entered = enter_next(job, lane)
      until not (entered and lane == 'interactive' and turns_ms and waited_ms >= turns_ms)
    end
    items[#items + 1] = {job, index, id, lane, told_ms}
  end
end
return {items, #reclaimed > 0 and reclaimed or {0, 0}, given_up, view(), call('HGET', STATE, 'born')}
