-- Checks that a staged state may still take the living one's place. What swaps follows in the same script, with these KEYS and
-- ARGV: `swap.lua`, or `erase.lua` and then `swap.lua`. Nothing was changed where it returns.

if redis.call('HGET', KEYS[5], 'generation') ~= ARGV[2] then
  return 'replaced'
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'lost-hold'
end
local begins = redis.call('HGET', KEYS[4], 'begins')
if begins and redis.call('HGET', KEYS[5], 'begins') ~= begins then
  return 'cut'
end

