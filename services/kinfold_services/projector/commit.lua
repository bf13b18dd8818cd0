-- Commits one folded batch: state, feed, rejects and position, in one atomic step, if the position is still the one after
-- which the batch was read, and the projector owns the workspace (contract section 8).
--
-- KEYS  position, visitors, contacts, external-ids, emails, members, recent, created, changes, rejects, events, hold,
--       projector, owner
-- ARGV  [1] the position that the batch was read after ('' where there is none)
--       [2] the position after it (the id of its last entry)
--       [3] the state's generation ('' until a replay has replaced it)
--       [4] how many entries the feed keeps   [5] the name of the consumer group that shows the lag, or ''
--       [6] how many entries of the log are folded now
--       [7] the token of the projector that commits, or '' in a staging area, which has no owner
--       [8] for how many milliseconds from now the projector owns the workspace
--       [9] a digest of the last entry's content ('' where it is unknown)
--       [10] what is written, as MessagePack, which costs the sender a tenth of so many arguments: an array of
--           position fields (name, value, ...), visitors (id, JSON, ...), contacts (id, JSON, ...),
--           external ids (id, contact id, ...), e-mails (address, contact id, ...), freed e-mails (address, ...),
--           members added (0, member, ...), members removed (member, ...),
--           living contacts by the minute in which they were seen last, where that changed (ms, id, ...),
--           created ones (0, id, ...), merged ones (id, ...),
--           changes (JSON, ...),
--           how long the batch took so far in ms (nothing where no projector is at work)
--       [11] and so on: for each reject, how many fields and values follow, and those: they may hold any bytes
--
-- Returns 'done'; 'again' where this very batch is committed already (the reply to the first try was lost); or 'held' where
-- a replay is about to replace the state and everybody has to wait a moment.
-- Raises REPLACED where a replay has done so, and LOSTPLACE, with the position found and the one expected, or where another
-- projector owns the workspace. A workspace without an owner becomes ours: nobody has moved the position in between. A batch
-- with the same position before and after corrects the counts.

local stored = redis.call('HMGET', KEYS[1], 'stream_id', 'generation')
local position, generation = stored[1] or '', stored[2] or ''
if generation ~= ARGV[3] then
  return redis.error_reply('REPLACED found generation ' .. generation .. ' expected ' .. ARGV[3])
end
local owner = redis.call('GET', KEYS[14])
if ARGV[7] ~= '' and owner and owner ~= ARGV[7] then
  return redis.error_reply('LOSTPLACE another projector owns the workspace')
end
local committed_by = redis.call('HGET', KEYS[13], 'owner') or ''
if position == ARGV[2] and ARGV[1] ~= ARGV[2] and committed_by == ARGV[7] then
  return 'again'
end
if position ~= ARGV[1] then
  return redis.error_reply('LOSTPLACE found ' .. position .. ' expected ' .. ARGV[1])
end
if ARGV[7] ~= '' then
  redis.call('SET', KEYS[14], ARGV[7], 'PX', ARGV[8])
end
if redis.call('EXISTS', KEYS[12]) == 1 then
  return 'held'
end

local batch = cmsgpack.unpack(ARGV[10])

-- Calls `command key value ...` some values at a time: unpack fails at about 8,000.
local function write(command, key, values)
  for first = 1, #values, 4000 do
    redis.call(command, key, unpack(values, first, math.min(first + 3999, #values)))
  end
end

write('HSET', KEYS[1], batch[1])
write('HSET', KEYS[2], batch[2])
write('HSET', KEYS[3], batch[3])
write('HSET', KEYS[4], batch[4])
write('HSET', KEYS[5], batch[5])
write('HDEL', KEYS[5], batch[6])
write('ZADD', KEYS[6], batch[7])
write('ZREM', KEYS[6], batch[8])
write('ZADD', KEYS[7], batch[9])
write('ZADD', KEYS[8], batch[10])
write('ZREM', KEYS[7], batch[11])
write('ZREM', KEYS[8], batch[11])

for _, change in ipairs(batch[12]) do
  redis.call('XADD', KEYS[9], 'MAXLEN', '~', ARGV[4], '*', 'change', change)
end
local cursor = 11
while cursor <= #ARGV do
  local last = cursor + tonumber(ARGV[cursor])
  redis.call('XADD', KEYS[10], '*', unpack(ARGV, cursor + 1, last))
  cursor = last + 1
end

redis.call('HSET', KEYS[1], 'stream_id', ARGV[2], 'digest', ARGV[9])
if batch[13][1] then
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[13], 'owner', ARGV[7], 'committed_at_ms', now[1] .. string.format('%03d', math.floor(now[2] / 1000)))
  redis.call('HINCRBY', KEYS[13], 'batches', 1)
  redis.call('HINCRBYFLOAT', KEYS[13], 'batch_ms', batch[13][1])
end
-- Only for tools that look at groups; nothing depends on it, so a missing group is no error.
if ARGV[5] ~= '' then
  redis.pcall('XGROUP', 'SETID', KEYS[11], ARGV[5], ARGV[2], 'ENTRIESREAD', ARGV[6])
end
return 'done'
