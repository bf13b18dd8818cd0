-- A page of the living contacts that were seen last, behind the one that the page before ended with.
--
-- KEYS  recent
-- ARGV  score and id of that one ('' and '' for the first page), how many
--
-- Returns ids and scores, the most recent first. Within the same minute ids decide.

local start = 0
if ARGV[2] ~= '' then
  local score = redis.call('ZSCORE', KEYS[1], ARGV[2])
  if score and tonumber(score) == tonumber(ARGV[1]) then
    start = redis.call('ZREVRANK', KEYS[1], ARGV[2]) + 1
  else
    -- It was seen again, or merged: find where it stood.
    start = redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[1], '+inf')
    local stop = start + redis.call('ZCOUNT', KEYS[1], ARGV[1], ARGV[1])
    while start < stop do
      local middle = math.floor((start + stop) / 2)
      local id = redis.call('ZRANGE', KEYS[1], middle, middle, 'REV')[1]
      if id < ARGV[2] then
        stop = middle
      else
        start = middle + 1
      end
    end
  end
end
return redis.call('ZRANGE', KEYS[1], start, start + ARGV[3] - 1, 'REV', 'WITHSCORES')
