-- How far a photo is.
--
-- ARGV: job.
-- Returns 'gone'; or 'failed', error; or 'done', then per face: index, waited ms; or 'running', changes told, and faces,
-- faces done, steps, steps done.

local job = ARGV[1]
local seen = call('HMGET', JOB .. job, 'n', 'done', 'total', 'steps', 'rev', 'end', 'error')
if not seen[1] then
  return {'gone'}
elseif seen[6] then
  return {'failed', seen[7]}
elseif seen[1] ~= seen[2] then
  return {'running', seen[5], seen[1], seen[2], seen[3], seen[4]}
end
local found, fields = {'done'}, call('HGETALL', JOB .. job)
for at = 1, #fields, 2 do
  if string.sub(fields[at], 1, 2) == 'q:' then
    found[#found + 1] = string.sub(fields[at], 3)
    found[#found + 1] = fields[at + 1]
  end
end
return found
