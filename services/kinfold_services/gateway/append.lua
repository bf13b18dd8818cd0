-- Appends the events of one request to the log: all of them, or none if the server is out of memory.
-- One script call is faster than a pipeline, and one argument faster than many: redis-py encodes each of them in Python.
--
-- KEYS  events
-- ARGV  events, each as JSON: an array in MessagePack
--
-- Returns the position of the last event.

local position
for _, event in ipairs(cmsgpack.unpack(ARGV[1])) do
  position = redis.call('XADD', KEYS[1], '*', 'event', event)
end
return position
