-- Appends entries with their own ids, if the log ends where the importer left it.
--
-- KEYS  events
-- ARGV  [1] the id of the last entry that is there ('' where there is none)
--       then entries, each: id, a count of values, and those (field, value, ...)
--
-- Raises OTHERWRITER with the last entry found and the one expected; then nothing was appended.

local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = newest and newest[1] or ''
if last ~= ARGV[1] then
  return redis.error_reply('OTHERWRITER found ' .. last .. ' expected ' .. ARGV[1])
end

local cursor = 2
while cursor <= #ARGV do
  local values = tonumber(ARGV[cursor + 1])
  redis.call('XADD', KEYS[1], ARGV[cursor], unpack(ARGV, cursor + 2, cursor + 1 + values))
  cursor = cursor + values + 2
end
return 'done'
