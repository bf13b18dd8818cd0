-- Appends the events of one request to the log, all of them or, where the server is out of memory, none.
-- One command instead of one for each event: packing those is what a pipeline's time goes into.
--
-- KEYS  events
-- ARGV  events, each as JSON
--
-- Returns the position of the last.

local position
for index = 1, #ARGV do
  position = redis.call('XADD', KEYS[1], '*', 'event', ARGV[index])
end
return position
