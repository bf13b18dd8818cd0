-- Reads a page of the living contacts, by id, and the position of the feed in one step.
--
-- KEYS  created, contacts, changes
-- ARGV  the last id of the previous page ('' for the first page), the size of a page
--
-- Returns the id of the feed's last entry, the ids of the contacts, and their JSON.

local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local ids = redis.call('ZRANGE', KEYS[1], from, '+', 'BYLEX', 'LIMIT', 0, ARGV[2])
local contacts = {}
if #ids > 0 then
  contacts = redis.call('HMGET', KEYS[2], unpack(ids))
end
local last = '0-0'
local info = redis.pcall('XINFO', 'STREAM', KEYS[3])
if not info.err then
  for index = 1, #info, 2 do
    if info[index] == 'last-generated-id' then
      last = info[index + 1]
    end
  end
end
return {last, ids, contacts}
