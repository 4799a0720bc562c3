-- Queue a photo, unless its idempotency key stands for another one; if that has failed and may be tried again, the key
-- stands for the new one from now on.
--
-- ARGV: job, lane, most photos waiting, payload, its time to live in ms, ms to keep the job after its end, webhook or '',
--       id of the notice about its end, digest of the idempotency key or '', fingerprint, its origin or '', whether the
--       photo is kept after its end ('kept'), its owner or '', most photos of one owner waiting.
-- Returns 'admitted', 'joined', 'conflict', 'full', 'owner full' or 'no memory'; the job, photos that waited before, seconds a photo
-- takes, and the view. Running twice for one job is running once.

local job, lane, limit, payload, payload_ttl_ms, keep_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local webhook, notice, idempotency, fingerprint, origin = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local owner, owners_limit = ARGV[13], tonumber(ARGV[14])
local OWNERS_SHARE = 0.5 -- as in core/shares.py
local MOST_MEMORY = 0.8 -- what is left is for the faces of photos that are admitted, and for what must be told of them

local function answer(kind, admitted)
  return {kind, admitted, waiting_in(lane), tostring(pace_s()), view()}
end

local earlier, relation
if idempotency ~= '' then
  earlier, relation = known_by(idempotency, fingerprint)
  if relation == 'conflict' or (relation == 'joined' and earlier ~= job) then
    return answer(relation, earlier)
  end
end
if call('EXISTS', JOB .. job) == 1 then
  return answer('admitted', job)
end
if not has_room(waiting_in(lane), 1, limit) then
  return answer('full', job)
end
local is_empty = waiting_in(lane) == 0
local of_his = is_empty and 0 or tonumber(call('HGET', STATE, of_owner(lane, owner)) or 0)
local may_hold = owner == '' or may_bring(owner, #payload, OWNERS_SHARE * MOST_MEMORY)
if owner ~= '' and not (may_hold and has_room(of_his, 1, owners_limit)) then
  return answer('owner full', job)
end
if not (make_room('kept', owner, 0, MOST_MEMORY) or make_room('jobs', owner, 0, MOST_MEMORY)) then
  return answer('no memory', job)
end
local has_any = owner == '' or held_by('photos', owner) + held_by('jobs', owner) + held_by('kept', owner) > 0
if has_any and not room_for_results(MOST_MEMORY, tonumber(keep_ms)) then
  return answer('no memory', job)
end
open_lanes()
call('SET', PAYLOAD .. job .. ':0', payload, 'PX', payload_ttl_ms)
if owner ~= '' then
  if is_empty then -- a gateway of a release that counts no owners may have taken what was counted
    call('HDEL', STATE, of_owner(lane, owner))
  end
  call('HSET', JOB .. job, 'owner', owner)
end
admit(job, lane, now_us(), keep_ms, {'0', '0'})
note_held(job, 'photos', payload_ttl_ms)
if webhook ~= '' then
  call('HSET', JOB .. job, 'webhook', webhook, 'notice', notice, 'origin', origin)
end
if ARGV[12] == 'kept' then
  call('HSET', JOB .. job, 'upload', 'kept')
end
if earlier then
  call('HDEL', JOB .. earlier, 'idempotency')
end
if idempotency ~= '' then
  call('HSET', JOB .. job, 'idempotency', idempotency)
  call('HSET', IDEMPOTENCY .. idempotency, 'job', job, 'fingerprint', fingerprint)
  call('PERSIST', IDEMPOTENCY .. idempotency)
end
return answer('admitted', job)
