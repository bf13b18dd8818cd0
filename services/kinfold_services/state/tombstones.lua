-- Reads some of the merged contacts (tombstones).
--
-- KEYS  contacts
-- ARGV  the cursor of HSCAN ('0' for the first call), about how many contacts to look at
--
-- Returns the next cursor ('0' at the end), then ids and tombstones in turn. A tombstone has 83 bytes, and a living contact never
-- fewer than 300.

local reply = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local found = {reply[1]}
for index = 1, #reply[2], 2 do
  if #reply[2][index + 1] <= 100 then
    found[#found + 1] = reply[2][index]
    found[#found + 1] = reply[2][index + 1]
  end
end
return found
