-- Puts a rebuilt state in the living one's place and tells the feed, in one atomic step (contract section 9). `check.lua` comes
-- before it in the same script.
--
-- KEYS  hold, changes, staged differences, then pairs: a key of the state, its staged like; the position is the first
-- ARGV  [1] the token that holds the projector back   [2] the generation of the rebuilt state
--       [3] how many entries the feed keeps
--
-- The rebuilt state stands at the living position: the replay read that position while it held the token, and nothing is
-- committed while a token is there. A projector that owns the workspace goes on owning it.
--
-- Returns 'done'; 'lost-hold' where the projector was let go in between, so the rebuilt state may be behind; 'replaced' where
-- another replay has taken the staging area over; 'cut' where the log begins at another baseline by now.

local owner = redis.call('HGET', KEYS[4], 'owner')
if owner then
  redis.call('HSET', KEYS[5], 'owner', owner)
end
local log = redis.call('HGET', KEYS[4], 'log')
if log and not redis.call('HGET', KEYS[5], 'log') then
  redis.call('HSET', KEYS[5], 'log', log)
end

-- Some at a time: Lua holds one page of them, not all.
local from = 0
repeat
  local page = redis.call('LRANGE', KEYS[3], from, from + 999)
  for _, change in ipairs(page) do
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'change', change)
  end
  from = from + #page
until #page == 0

for index = 4, #KEYS, 2 do
  -- UNLINK frees a large key in the background. A RENAME over it would do so at once, with everybody waiting.
  redis.call('UNLINK', KEYS[index])
  if redis.call('EXISTS', KEYS[index + 1]) == 1 then
    redis.call('RENAME', KEYS[index + 1], KEYS[index])
  end
end
redis.call('UNLINK', KEYS[3], KEYS[1])
return 'done'
