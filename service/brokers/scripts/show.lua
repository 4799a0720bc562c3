-- Say previews of items to those who wait for their jobs. Nothing is kept; an item that the taker does not have is passed
-- over.
--
-- ARGV: taker, then per preview: job, index, preview.

local taker = ARGV[1]
for at = 2, #ARGV, 3 do
  local job, index, preview = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if lease_of(job, index, taker) then
    call('PUBLISH', NEWS .. job, 'preview ' .. preview)
  end
end
