-- Appends the events of one request to the log: all of them, or none if the server is out of memory.
-- One script call is faster than a pipeline, which spends most of its time on encoding one command for each event.
--
-- KEYS  events
-- ARGV  events, each as JSON
--
-- Returns the position of the last event.

local position
for index = 1, #ARGV do
  position = redis.call('XADD', KEYS[1], '*', 'event', ARGV[index])
end
return position
