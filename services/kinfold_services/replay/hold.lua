-- Extends the hold of the projector, or ends it, if the caller still has it.
--
-- KEYS  hold
-- ARGV  [1] the token that it is held by   [2] for how many milliseconds from now; 0 lets it go
--
-- Returns 1; 0 where it is not held by that token any more.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
