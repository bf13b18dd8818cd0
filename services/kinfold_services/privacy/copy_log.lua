-- Copies a page of the log into the staging area, under the same ids, with some events replaced.
--
-- KEYS  events, staged events, staged position
-- ARGV  [1] the generation of the staging area
--       [2] copy after this entry ('' is the beginning)   [3] up to and including this one   [4] at most this many
--       then ids and the events that take their places, in turn
--
-- Returns the id of the last entry that was copied ('' for none), how many were, and the id of an entry with too many fields
-- for a script ('' for none), before which it stopped. Or 'replaced', where another process has claimed the staging area.

if redis.call('HGET', KEYS[3], 'generation') ~= ARGV[1] then
  return 'replaced'
end
local replaced = {}
for index = 5, #ARGV, 2 do
  replaced[ARGV[index]] = ARGV[index + 1]
end
local last, count = '', 0
local first = ARGV[2] == '' and '-' or '(' .. ARGV[2]
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], first, ARGV[3], 'COUNT', ARGV[4])) do
  local id, fields = entry[1], entry[2]
  if replaced[id] then
    redis.call('XADD', KEYS[2], id, 'event', replaced[id])
  elseif #fields > 7000 then
    return {last, count, id}
  else
    redis.call('XADD', KEYS[2], id, unpack(fields))
  end
  last, count = id, count + 1
end
return {last, count, ''}
