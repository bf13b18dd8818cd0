-- Appends entries with their own ids, if the log ends where the importer left it.
--
-- KEYS  events
-- ARGV  [1] the id of the last entry in the log ('' for an empty log)
--       then entries, each: id, number of values, and the values (field, value, ...)
--
-- Fails with OTHERWRITER, and appends nothing, if the log ends elsewhere.

local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = newest and newest[1] or ''
if last ~= ARGV[1] then
  return redis.error_reply('OTHERWRITER expected ' .. ARGV[1] .. ', got ' .. last)
end

local cursor = 2
while cursor <= #ARGV do
  local values = tonumber(ARGV[cursor + 1])
  redis.call('XADD', KEYS[1], ARGV[cursor], unpack(ARGV, cursor + 2, cursor + 1 + values))
  cursor = cursor + values + 2
end
return 'done'
