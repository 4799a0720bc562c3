-- Let items that a taker has wait again, before all others; the taker has had no part in them.
--
-- ARGV: taker, then per item: job, index. Returns the view.

local taker = ARGV[1]
go_on()
for at = 2, #ARGV, 2 do
  local lane, id = lease_of(ARGV[at], ARGV[at + 1], taker)
  if lane then
    put_to_front(ARGV[at], ARGV[at + 1], lane, id)
  end
end
call('PUBLISH', BELL, '')
return view()
