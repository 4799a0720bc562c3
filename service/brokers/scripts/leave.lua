-- A taker ends: what it still has waits again, and the taker is forgotten.
--
-- ARGV: taker.

local taker = ARGV[1]
go_on()
open_lanes()
give_back(taker, {})
for _, lane in ipairs(LANES) do
  call('XGROUP', 'DELCONSUMER', STREAM[lane], GROUP, taker)
end
