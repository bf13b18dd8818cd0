-- Adds an identity secret, unless the workspace already has as many as may be valid at once.
--
-- KEYS  identity-secrets
-- ARGV  how many may be valid, the new secret's kid, the secret as JSON
--
-- Returns 1, or 0 if nothing was added.

if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  return 0
end
return redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
