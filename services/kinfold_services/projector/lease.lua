-- Takes, keeps or releases a workspace (contract section 8).
--
-- KEYS  owner, position, erasures-pending, erasing
-- ARGV  [1] the token of the projector that asks   [2] for how many milliseconds from now; 0 releases
--
-- Returns 0, or -1 where an erasure is pending and no process is at it. Where another projector owns the workspace, returns after
-- how many milliseconds that may end.
--
-- Who takes a workspace writes its token into the position, in the same step. The position is what commits watch, so no commit
-- of an earlier owner succeeds from then on.

local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return math.max(1, redis.call('PTTL', KEYS[1]))
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if redis.call('HGET', KEYS[2], 'owner') ~= ARGV[1] then
  redis.call('HSET', KEYS[2], 'owner', ARGV[1])
end
if redis.call('EXISTS', KEYS[3]) == 1 and redis.call('EXISTS', KEYS[4]) == 0 then
  return -1
end
return 0
