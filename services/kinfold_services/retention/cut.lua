-- Cuts a log behind a new baseline, trims rejects and feed, and leaves the receipt, in one atomic step (contract section 11).
--
-- KEYS  [1] retention  [2] retention-receipts  [3] changes  [4] rejects  [5] events  [6] baseline  [7] baseline-pieces
--       [8] staged pieces  [9] staged list of visitors that go  [10] position  [11] hold  [12] visitors  [13] visitor-stamps
--       [14] snapshots, then the snapshots themselves
-- ARGV  [1] the receipt, JSON, without its counts
--       [2] the feed keeps entries from this id on, or ''   [3] the rejects keep entries from this id on, or ''
--       [4] the first log entry whose reject is kept, or ''
--       [5] the log keeps entries from this id on, or '': no cut, and nothing below counts
--       [6] `position` and [7] `about` of the baseline      [8] `position` of the baseline that it replaces, or ''
--       [9] the number of staged pieces                     [10] the number of visitors that go
--       [11] the generation of the state that was checked, and [12] if visitors go, the one that it has then
--       [13] if visitors go, the token of the hold, and     [14] the position of the state meanwhile
--
-- Returns the receipt; or 'changed: ' and what is not as it was, and then nothing was done.

local cuts, goes = ARGV[5] ~= '', tonumber(ARGV[10]) > 0
if cuts then
  if (redis.call('HGET', KEYS[6], 'position') or '') ~= ARGV[8] then
    return 'changed: the baseline'
  end
  if (redis.call('HGET', KEYS[10], 'generation') or '') ~= ARGV[11] then
    return 'changed: the state'
  end
  if redis.call('LLEN', KEYS[8]) ~= tonumber(ARGV[9]) or redis.call('LLEN', KEYS[9]) ~= tonumber(ARGV[10]) then
    return 'changed: what was prepared'
  end
  if goes and (redis.call('GET', KEYS[11]) ~= ARGV[13] or redis.call('HGET', KEYS[10], 'stream_id') ~= ARGV[14]) then
    return 'changed: the position'
  end
end

local receipt = cjson.decode(ARGV[1])
local removed = receipt['removed']
if ARGV[2] ~= '' then
  removed['feedEntries'] = redis.call('XTRIM', KEYS[3], 'MINID', '=', ARGV[2])
end
if ARGV[3] ~= '' then
  removed['rejects'] = redis.call('XTRIM', KEYS[4], 'MINID', '=', ARGV[3])
end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'rejects_from', ARGV[4])
end
if cuts then
  redis.call('UNLINK', KEYS[7])
  redis.call('RENAME', KEYS[8], KEYS[7])
  redis.call('PERSIST', KEYS[7])
  redis.call('HSET', KEYS[6], 'position', ARGV[6], 'about', ARGV[7])
  redis.call('HSET', KEYS[10], 'begins', ARGV[6])
  removed['logEntries'] = redis.call('XTRIM', KEYS[5], 'MINID', '=', ARGV[5])
  local gone, from = 0, 0
  while goes do
    local page = redis.call('LRANGE', KEYS[9], from, from + 999)
    if #page == 0 then
      break
    end
    gone = gone + redis.call('HDEL', KEYS[12], unpack(page))
    redis.call('HDEL', KEYS[13], unpack(page))
    from = from + #page
  end
  removed['visitors'] = gone
  if goes then
    redis.call('HINCRBY', KEYS[10], 'visitors', -gone)
    redis.call('HSET', KEYS[10], 'generation', ARGV[12])
    redis.call('UNLINK', KEYS[9], KEYS[11])
  end
  for index = 14, #KEYS do
    redis.call('UNLINK', KEYS[index])
  end
end
local text = cjson.encode(receipt)
redis.call('RPUSH', KEYS[2], text)
return text
