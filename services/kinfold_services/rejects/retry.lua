-- Appends a rejected entry's event again and marks the reject as dealt with, in one atomic step and once.
--
-- KEYS  events, settled-rejects
-- ARGV  [1] the rejected entry (its id in the log)   [2] the event that takes its place
--
-- Returns the id of the entry that took its place, and 1 where that was appended now, 0 where it was before.

local by = redis.call('HGET', KEYS[2], ARGV[1])
if by then
  return {by, 0}
end
by = redis.call('XADD', KEYS[1], '*', 'event', ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], by)
return {by, 1}
