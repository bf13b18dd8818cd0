-- Cuts a log behind a new baseline, trims rejects and feed, and leaves the receipt, in one atomic step (contract section 11).
--
-- KEYS  [1] retention  [2] retention-receipts  [3] changes  [4] rejects  [5] events  [6] baseline  [7] baseline-pieces
--       [8] staged pieces  [9] position  [10] snapshots, then the snapshots themselves
-- ARGV  [1] the receipt, JSON, without the counts of this step
--       [2] the feed keeps entries from this id on, or ''   [3] the rejects keep entries from this id on, or ''
--       [4] the first log entry whose reject is kept, or ''
--       [5] the log keeps entries from this id on, or '': no cut, and nothing below counts
--       [6] `position` and [7] `about` of the baseline      [8] `position` of the baseline that it replaces, or ''
--       [9] the number of staged pieces                     [10] the generation of the state that was checked
--
-- Returns the receipt; or 'changed: ' and what is not as it was, and then nothing was done.

local cuts = ARGV[5] ~= ''
if cuts then
  if (redis.call('HGET', KEYS[6], 'position') or '') ~= ARGV[8] then
    return 'changed: the baseline'
  end
  if (redis.call('HGET', KEYS[9], 'generation') or '') ~= ARGV[10] then
    return 'changed: the state'
  end
  if redis.call('LLEN', KEYS[8]) ~= tonumber(ARGV[9]) then
    return 'changed: what was prepared'
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
  redis.call('HSET', KEYS[9], 'begins', ARGV[6])
  removed['logEntries'] = redis.call('XTRIM', KEYS[5], 'MINID', '=', ARGV[5])
  for index = 10, #KEYS do
    redis.call('UNLINK', KEYS[index])
  end
end
redis.call('HDEL', KEYS[1], 'pending')
local text = cjson.encode(receipt)
redis.call('RPUSH', KEYS[2], text)
return text
