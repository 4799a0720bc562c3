-- Two lanes of jobs, whose items are handed out in turn, on lease. Every script of a queue begins with this text.
--
-- A lane's stream holds one unread entry per job; the job's other items wait in its own list, and the next one enters the
-- stream when the one before is handed out. So photos take turns, face by face. An interactive job that has done so for
-- long enough has all of its items in the stream, one behind the other. An entry that was handed out stays pending with
-- its taker until it is acknowledged. An entry that was given back is pending with AT_FRONT, and its id lies in the lane's
-- front list.
--
-- Fields of a job:  lane, at (admission, microseconds), n items, w of them waiting, done, keep (ms after the end),
--                   total and steps of all items, rev (changes told), end, error and by (once it has ended; who ended it),
--                   per item: t:i its steps, s:i those taken, e:i its entry, k:i when it was taken, q:i how long it waited,
--                   photos: progress, webhook, notice (the id that its notice will have), its origin, idempotency,
--                   upload ('kept' if it outlives the job's end), owner, report (once it has succeeded), retryable (there if it
--                   failed so that it may be sent again), held (what its owner holds by it: pool, bytes and id)
--
-- The server refuses some writes when it is out of memory, and looks before a script's first write alone, so that a script
-- runs as a whole or not at all. Scripts that bring work begin with one of those. Scripts that bring it on, and so make
-- room, begin with `go_on`. Time is the server's: clocks of takers need not agree.

local STATE, SWEPT, DEAD, OVERDUE = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local STREAM = {interactive = KEYS[5], batch = KEYS[6]}
local FRONT = {interactive = KEYS[7], batch = KEYS[8]}
local ORDER = {interactive = KEYS[9], batch = KEYS[10]}
local JOB, NEXT, PAYLOAD, RESULT = KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local BELL, NEWS, MOVED, MAIL = KEYS[15], KEYS[16], KEYS[17], KEYS[18]
local IDEMPOTENCY, OUTBOX, NOTICE = KEYS[19], KEYS[20], KEYS[21]
local HOLDERS, HELD = KEYS[22], KEYS[23]

local GROUP, AT_FRONT = 'takers', '~front'
local LANES = {'interactive', 'batch'}
local NEWEST_WEIGHT = 0.2
local FORGOTTEN_AT_ONCE = 10

local call = redis.call

local function now_us()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local function exact(number)
  return string.format('%.0f', number)
end

-- A write that needs no memory and changes nothing: what comes behind it is not refused.
local function go_on()
  call('PERSIST', STATE)
end

-- Make sure that the lanes exist. Groups begin at 0: what was there before the first taker came is not skipped.
local function open_lanes()
  for _, lane in ipairs(LANES) do
    if call('EXISTS', STREAM[lane]) == 0 then
      call('XGROUP', 'CREATE', STREAM[lane], GROUP, '0', 'MKSTREAM')
    end
  end
end

local function waiting_in(lane)
  return tonumber(call('HGET', STATE, 'waiting:' .. lane) or 0)
end

-- What gauges show: items waiting and, in microseconds, when the oldest job that waits was admitted ('' when none does).
local function view()
  local seen = {}
  for _, lane in ipairs(LANES) do
    local oldest = call('ZRANGE', ORDER[lane], 0, 0, 'WITHSCORES')
    seen[#seen + 1] = waiting_in(lane)
    seen[#seen + 1] = oldest[2] and exact(tonumber(oldest[2])) or ''
  end
  return seen
end

local function of_owner(lane, owner)
  return 'waiting:' .. lane .. ':' .. owner
end

local function add_waiting(job, lane, count)
  call('HINCRBY', STATE, 'waiting:' .. lane, count)
  local owner = call('HGET', JOB .. job, 'owner')
  if owner and call('HINCRBY', STATE, of_owner(lane, owner), count) <= 0 then
    call('HDEL', STATE, of_owner(lane, owner))
  end
  local left = call('HINCRBY', JOB .. job, 'w', count)
  if left == 0 then
    call('ZREM', ORDER[lane], job)
  else
    call('ZADD', ORDER[lane], call('HGET', JOB .. job, 'at'), job)
  end
  call('PUBLISH', MOVED, 'moved')
end

-- The next item of a job enters its lane; whether there is one.
local function enter_next(job, lane)
  local index = call('LPOP', NEXT .. job)
  if index then
    local id = call('XADD', STREAM[lane], '*', 'job', job, 'item', index)
    call('HSET', JOB .. job, 'e:' .. index, id)
  end
  return index
end

-- Admit a job whose payloads are stored; `steps` holds index, number of steps, index, number of steps, ...
local function admit(job, lane, now, keep_ms, steps)
  local fields, total = {}, 0
  for at = 1, #steps, 2 do
    fields[#fields + 1] = 't:' .. steps[at]
    fields[#fields + 1] = steps[at + 1]
    total = total + tonumber(steps[at + 1])
  end
  local count = #steps / 2
  call('HSET', JOB .. job, 'lane', lane, 'at', exact(now), 'n', count, 'done', 0, 'keep', keep_ms, 'total', total,
    'steps', 0, 'rev', 0, unpack(fields))
  for at = 1, #steps, 2 do
    call('RPUSH', NEXT .. job, steps[at])
  end
  add_waiting(job, lane, count)
  enter_next(job, lane)
  call('PUBLISH', BELL, '')
end

-- Whether a lane that holds `waiting` items has room; a job with more than the limit may enter an empty lane.
local function has_room(waiting, count, limit)
  return waiting == 0 or waiting + count <= limit
end

local function pace_s()
  return tonumber(call('HGET', STATE, 'pace') or 1)
end

-- Items that are on lease.
local function in_flight()
  local count = 0
  for _, lane in ipairs(LANES) do
    if call('EXISTS', STREAM[lane]) == 1 then
      count = count + call('XPENDING', STREAM[lane], GROUP)[1] - call('LLEN', FRONT[lane])
    end
  end
  return count
end

-- An item was finished after `stay_us`; those that were in flight beside it share that time.
local function learn_pace(stay_us)
  local pace = pace_s()
  pace = pace + NEWEST_WEIGHT * (stay_us / 1000000 / math.max(1, in_flight()) - pace)
  call('HSET', STATE, 'pace', string.format('%.6f', pace))
end

-- Lane, entry and time of taking of an item that `taker` has on lease; nil if it has not.
local function lease_of(job, index, taker)
  local found = call('HMGET', JOB .. job, 'lane', 'e:' .. index, 'k:' .. index)
  local lane, id, since = found[1], found[2], found[3]
  if not (id and since) then
    return nil
  end
  local pending = call('XPENDING', STREAM[lane], GROUP, id, id, 1)
  if not pending[1] or pending[1][2] ~= taker then
    return nil
  end
  return lane, id, tonumber(since)
end

local function remove_entry(lane, id)
  call('XACK', STREAM[lane], GROUP, id)
  call('XDEL', STREAM[lane], id)
end

-- Steps that an item has taken; whether that is news.
local function set_steps(job, index, steps)
  local before = tonumber(call('HGET', JOB .. job, 's:' .. index) or 0)
  if steps == before then
    return false
  end
  call('HSET', JOB .. job, 's:' .. index, steps)
  call('HINCRBY', JOB .. job, 'steps', steps - before)
  return true
end

-- Tell whoever waits how far a job is.
local function tell_progress(job)
  local rev = call('HINCRBY', JOB .. job, 'rev', 1)
  local seen = call('HMGET', JOB .. job, 'n', 'done', 'total', 'steps')
  call('PUBLISH', NEWS .. job, rev .. ' ' .. table.concat(seen, ' '))
end

-- An item on lease waits again, before all others of its lane. `deliveries` is nil where nothing is held against it.
local function put_to_front(job, index, lane, id, deliveries)
  add_waiting(job, lane, 1)
  set_steps(job, index, 0)
  call('HDEL', JOB .. job, 'k:' .. index, 'progress')
  if deliveries then
    call('XCLAIM', STREAM[lane], GROUP, AT_FRONT, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
  else
    call('XCLAIM', STREAM[lane], GROUP, AT_FRONT, 0, id, 'JUSTID')
  end
  call('LPUSH', FRONT[lane], id)
  call('PUBLISH', NEWS .. job, 'back')
end

-- The item of an entry that is pending; nil where its job is known no more.
local function item_of(lane, id)
  local entry = call('XRANGE', STREAM[lane], id, id)[1]
  if entry and call('EXISTS', JOB .. entry[2][2]) == 1 then
    return entry[2][2], entry[2][4]
  end
  remove_entry(lane, id)
  return nil
end

-- What owners hold, in pools: 'photos' of jobs that have not ended, 'jobs' that have, 'kept' of photos that were never queued.
-- HOLDERS .. pool has the owners by their bytes, HELD .. pool:owner his entries ('bytes job') by the time when they expire.
-- 'notices' are counted, not weighed: HELD .. 'notices:' .. owner has their ids by the time when they were written.
local function strike_off(pool, owner, entry)
  if call('ZREM', HELD .. pool .. ':' .. owner, entry) == 1 then
    call('ZINCRBY', HOLDERS .. pool, -tonumber(string.match(entry, '^%d+')), owner)
  end
end

-- Take a job's items out of the lanes, with their payloads; the number of items that waited. An upload that is kept stays
-- as long as the job is remembered.
local function clear(job, keeps_results, keeps_upload)
  local fields = call('HGETALL', JOB .. job)
  local known = {}
  for at = 1, #fields, 2 do
    known[fields[at]] = fields[at + 1]
  end
  local lane, waited = known.lane, tonumber(known.w or 0)
  if waited > 0 then
    add_waiting(job, lane, -waited)
  end
  for field, value in pairs(known) do
    local kind, index = string.sub(field, 1, 2), string.sub(field, 3)
    if kind == 't:' then
      if keeps_upload and known.upload then
        call('PEXPIRE', PAYLOAD .. job .. ':' .. index, known.keep)
      else
        call('DEL', PAYLOAD .. job .. ':' .. index)
      end
      if not keeps_results then
        call('DEL', RESULT .. job .. ':' .. index)
      end
    elseif kind == 'e:' then
      if not known['k:' .. index] then
        call('LREM', FRONT[lane], 1, value)
      end
      remove_entry(lane, value)
      call('HDEL', JOB .. job, 'e:' .. index, 'k:' .. index)
    end
  end
  if known.held then
    local pool, entry = string.match(known.held, '^(%l+) (.+)')
    strike_off(pool, known.owner, entry)
    call('HDEL', JOB .. job, 'held')
  end
  call('DEL', NEXT .. job)
  call('ZREM', OVERDUE, job)
  return waited
end

-- The job that an idempotency key stands for, and what a request with this fingerprint is to it: 'joined', 'conflict' where
-- it is another one, 'failed' where the job has failed and may be tried again. Nothing where there is no such job.
local function known_by(idempotency, fingerprint)
  local known = call('HMGET', IDEMPOTENCY .. idempotency, 'job', 'fingerprint')
  local job = known[1]
  if not job or call('EXISTS', JOB .. job) == 0 then
    return nil
  elseif known[2] ~= fingerprint then
    return job, 'conflict'
  end
  return job, call('HEXISTS', JOB .. job, 'retryable') == 1 and 'failed' or 'joined'
end

-- Strike off what of an owner's has expired; whether there was any.
local function strike_off_expired(pool, owner)
  local held = HELD .. pool .. ':' .. owner
  local expired = call('ZRANGEBYSCORE', held, '-inf', now_us() / 1000, 'LIMIT', 0, 100)
  for _, entry in ipairs(expired) do
    strike_off(pool, owner, entry)
  end
  return #expired > 0 or call('EXISTS', held) == 0 and call('ZREM', HOLDERS .. pool, owner) == 1
end

-- Let a key last so long at least.
local function let_last(key, ms)
  if call('PTTL', key) < tonumber(ms) then
    call('PEXPIRE', key, ms)
  end
end

-- Note what the owner of a job holds by it from now on, for so long at most.
local function note_held(job, pool, keep_ms)
  local owner, expires_ms = call('HGET', JOB .. job, 'owner'), now_us() / 1000 + tonumber(keep_ms)
  local bytes = owner and call('STRLEN', RESULT .. job .. ':0') + call('STRLEN', PAYLOAD .. job .. ':0') or 0
  if bytes == 0 then
    return
  end
  strike_off_expired(pool, owner)
  local held, entry = HELD .. pool .. ':' .. owner, bytes .. ' ' .. job
  if call('ZADD', held, exact(expires_ms), entry) == 1 then
    call('ZINCRBY', HOLDERS .. pool, bytes, owner)
  end
  let_last(held, keep_ms)
  let_last(HOLDERS .. pool, keep_ms)
  call('HSET', JOB .. job, 'held', pool .. ' ' .. entry)
end

-- Drop a notice, and what its owner holds by it; whether there was one.
local function drop_notice(notice, owner)
  local held = HELD .. 'notices:' .. owner
  if call('ZREM', held, notice) == 1 then
    call('ZINCRBY', HOLDERS .. 'notices', -1, owner)
  end
  if call('EXISTS', held) == 0 then
    call('ZREM', HOLDERS .. 'notices', owner)
  end
  call('ZREM', OUTBOX, notice)
  return call('DEL', NOTICE .. notice) == 1
end

-- What has ended is kept for a while.
local function expire(job)
  local kept = call('HMGET', JOB .. job, 'keep', 'idempotency')
  call('PEXPIRE', JOB .. job, kept[1])
  if kept[2] then
    call('PEXPIRE', IDEMPOTENCY .. kept[2], kept[1])
  end
  call('ZREM', OVERDUE, job)
end

-- Somebody wants to know how a job ended; the notice outlives the job.
local function post_notice(job, outcome, error, now)
  local wanted = call('HMGET', JOB .. job, 'notice', 'webhook', 'origin', 'owner')
  local notice, url, origin, owner = wanted[1], wanted[2], wanted[3] or '', wanted[4] or ''
  if notice then
    call('HSET', NOTICE .. notice, 'job', job, 'url', url, 'outcome', outcome, 'ended', exact(now), 'error', error,
      'attempt', 0, 'origin', origin, 'owner', owner)
    call('ZADD', OUTBOX, now / 1000, notice)
    if call('ZADD', HELD .. 'notices:' .. owner, now / 1000, notice) == 1 then
      call('ZINCRBY', HOLDERS .. 'notices', 1, owner)
    end
    call('PUBLISH', MAIL, '')
  end
end

-- End a job; the number of items that waited. `by` tells who does, if he wants to know that it was he (`ended_by`).
local function conclude(job, outcome, error, by)
  local now = now_us()
  local expires_ms = now / 1000 + tonumber(call('HGET', JOB .. job, 'keep'))
  call('HSET', JOB .. job, 'end', outcome, 'error', error, 'expires', exact(expires_ms), 'by', by or '')
  post_notice(job, outcome, error, now)
  local waited = clear(job, outcome == 'succeeded', true)
  note_held(job, 'jobs', call('HGET', JOB .. job, 'keep'))
  expire(job)
  call('PUBLISH', NEWS .. job, 'end')
  return waited
end

-- Whether it was he who ended a job, and so, 1 or 0: also when he asks again because the answer was lost.
local function ended_by(job, by, outcome)
  local found = call('HMGET', JOB .. job, 'by', 'end')
  return found[1] == by and found[2] == outcome and 1 or 0
end

-- Forget a job; the number of items that waited.
local function forget(job)
  local waited = clear(job)
  local idempotency = call('HGET', JOB .. job, 'idempotency')
  if idempotency then
    call('DEL', IDEMPOTENCY .. idempotency)
  end
  call('DEL', JOB .. job)
  call('PUBLISH', NEWS .. job, 'end')
  return waited
end

-- Note why an item was given up.
local function bury(job, index, lane, reason, deliveries)
  call('XADD', DEAD, '*', 'job', job, 'item', index, 'lane', lane, 'reason', reason, 'deliveries', deliveries)
end

-- Give back what is pending with a taker, except the entries in `kept`.
local function give_back(taker, kept)
  for _, lane in ipairs(LANES) do
    local after = '-'
    repeat
      local pending = call('XPENDING', STREAM[lane], GROUP, after, '+', 100, taker)
      for _, entry in ipairs(pending) do
        local id = entry[1]
        after = '(' .. id
        if not kept[id] then
          local job, index = item_of(lane, id)
          if job then
            put_to_front(job, index, lane, id)
          end
        end
      end
    until #pending < 100
  end
  call('PUBLISH', BELL, '')
end
