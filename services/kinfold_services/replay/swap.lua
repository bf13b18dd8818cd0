-- Puts a rebuilt state in the living one's place and tells the feed, in one atomic step (contract section 9).
--
-- KEYS  hold, changes, staged position, staged differences, then pairs: a key of the state, its staged like
-- ARGV  [1] the token that holds the projector back   [2] the generation of the rebuilt state
--       [3] how many entries the feed keeps           [4] how many entries up to the position the log has lost
-- The staged differences are a list: the token of whoever wrote it, then the changes.
--
-- The rebuilt state stands at the living position: the replay read that position while it held the token, and nothing is
-- committed while a token is there.
--
-- Returns 'done'; 'lost-hold' where the projector was let go in between: the rebuilt state may be behind. Raises REPLACED where
-- another replay has taken the staging area over.

local staged = redis.call('HGET', KEYS[3], 'generation') or ''
if staged ~= ARGV[2] then
  return redis.error_reply('REPLACED found generation ' .. staged .. ' expected ' .. ARGV[2])
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('LINDEX', KEYS[4], 0) ~= ARGV[1] then
  return 'lost-hold'
end

redis.call('HSET', KEYS[3], 'lost', ARGV[4])

-- In the order in which they were found, some at a time: Lua holds one page of them, not all.
local from = 1
repeat
  local page = redis.call('LRANGE', KEYS[4], from, from + 999)
  for _, change in ipairs(page) do
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'change', change)
  end
  from = from + #page
until #page == 0

for index = 5, #KEYS, 2 do
  -- UNLINK frees a large key in the background, and a RENAME over it would do so at once, with everybody waiting.
  redis.call('UNLINK', KEYS[index])
  if redis.call('EXISTS', KEYS[index + 1]) == 1 then
    redis.call('RENAME', KEYS[index + 1], KEYS[index])
  end
end
redis.call('UNLINK', KEYS[4], KEYS[1])
return 'done'
