-- Puts a rebuilt state in the living one's place and tells the feed, in one atomic step (contract section 9).
--
-- KEYS  hold, position, changes, staged position, staged differences, then pairs: a key of the state, its staged like
-- ARGV  [1] the token that holds the projector back   [2] the living position that the rebuilt state stands at
--       [3] the generation of the rebuilt state       [4] how many entries the feed keeps
--       [5] how many entries up to the position the log has lost
-- The staged differences are a list: the token of whoever wrote it, then the changes.
--
-- Returns 'done'; 'lost-hold' where the projector was let go in between and 'moved' where it has come further, for the
-- rebuilt state is then behind. Raises REPLACED where another replay has taken the staging area over.

local staged = redis.call('HGET', KEYS[4], 'generation') or ''
if staged ~= ARGV[3] then
  return redis.error_reply('REPLACED found generation ' .. staged .. ' expected ' .. ARGV[3])
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('LINDEX', KEYS[5], 0) ~= ARGV[1] then
  return 'lost-hold'
end
if (redis.call('HGET', KEYS[2], 'stream_id') or '') ~= ARGV[2] then
  return 'moved'
end

redis.call('HSET', KEYS[4], 'lost', ARGV[5])

-- In the order in which they were found, some at a time: Lua holds one page of them, not all.
local from = 1
repeat
  local page = redis.call('LRANGE', KEYS[5], from, from + 999)
  for _, change in ipairs(page) do
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'change', change)
  end
  from = from + #page
until #page == 0

for index = 6, #KEYS, 2 do
  -- UNLINK frees a large key in the background, and a RENAME over it would do so at once, with everybody waiting.
  redis.call('UNLINK', KEYS[index])
  if redis.call('EXISTS', KEYS[index + 1]) == 1 then
    redis.call('RENAME', KEYS[index + 1], KEYS[index])
  end
end
redis.call('UNLINK', KEYS[5], KEYS[1])
return 'done'
