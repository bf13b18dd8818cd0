-- Takes, keeps or releases a workspace (contract section 8).
--
-- KEYS  owner
-- ARGV  [1] the token of the projector that asks   [2] for how many milliseconds from now; 0 releases
--
-- Returns 0, or, where another projector owns the workspace, after how many milliseconds that may end.

local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return math.max(1, redis.call('PTTL', KEYS[1]))
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 0
