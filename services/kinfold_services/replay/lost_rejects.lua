-- Takes a page of the rejects over into a rebuilt state: those of entries that the log has lost. No fold finds them again, and
-- what stands here is all that is left of them (contract section 7: never lost).
--
-- KEYS  staged position, rejects, staged rejects, events
-- ARGV  [1] the generation of the rebuilt state   [2] the reject behind which the page begins ('0-0' is the first)
--       [3] how many are looked at
--
-- Returns the last one that was looked at; nothing where there are no more, or where another rebuild has taken the staging area
-- over, which the next commit tells.

if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return nil
end

local last
for _, reject in ipairs(redis.call('XRANGE', KEYS[2], '(' .. ARGV[2], '+', 'COUNT', ARGV[3])) do
  local values = reject[2]
  local entry = values[#values - 4] or ''  -- 'entry', its id, 'reason', ..., 'detail', ... stand last
  local found = redis.pcall('XRANGE', KEYS[4], entry, entry)
  if found.err or #found == 0 then
    redis.call('XADD', KEYS[3], '*', unpack(values))
  end
  last = reject[1]
end
return last
