-- Renew the leases of items.
--
-- ARGV: taker, then per item: job, index, steps taken ('' when the taker does not say).
-- Returns the positions, from 1, of the items that the taker does not have (any more).

local taker = ARGV[1]
go_on()
local unwanted, moved = {}, {}
for at = 2, #ARGV, 3 do
  local job, index, steps = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local lane, id = lease_of(job, index, taker)
  if not lane then
    unwanted[#unwanted + 1] = (at + 1) / 3
  else
    if steps and set_steps(job, index, steps) then
      moved[job] = true
    end
    call('XCLAIM', STREAM[lane], GROUP, taker, 0, id, 'JUSTID')
  end
end
for job in pairs(moved) do
  tell_progress(job)
end
return unwanted
