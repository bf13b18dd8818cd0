-- Puts a rewritten log and feed, and the state that goes with them, in the living ones' places, in one atomic step. `check.lua`
-- comes before it in the same script, and `swap.lua` after it.
--
-- KEYS  those of `swap.lua`, then events, staged events, staged changes, staged erased, snapshots, erasures-pending, baseline,
--       baseline-pieces, staged baseline, staged pieces
-- ARGV  those of `swap.lua`, then
--       [4] the last entry of the log that was copied   [5] the last one of the feed   [6] which rewriting this is
--       [7] how many erasures follow, each: its id, and what is pending of it from now on
--       then the events that record the erasures
--
-- A staged baseline takes the place of the log's, if the log has one.
--
-- Returns what `swap.lua` does; 'behind' where more was appended than a script can copy.

local function pop() return table.remove(KEYS) end
local staged_pieces, staged_baseline, pieces, baseline = pop(), pop(), pop(), pop()
local pending, snapshots, erased, staged_changes, staged_events, events = pop(), pop(), pop(), pop(), pop(), pop()

if redis.call('HGET', baseline, 'position') ~= redis.call('HGET', staged_baseline, 'position') then
  return 'cut'
end

local function last_of(stream)
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return newest and newest[1] or ''
end
if last_of(KEYS[2]) ~= ARGV[5] then
  return 'behind'
end
local tail = redis.call('XRANGE', events, '(' .. (ARGV[4] ~= '' and ARGV[4] or '0'), '+', 'COUNT', 1001)
if #tail > 1000 then
  return 'behind'
end
for _, entry in ipairs(tail) do
  if #entry[2] > 7000 then
    return 'behind'
  end
end
for _, entry in ipairs(tail) do
  redis.call('XADD', staged_events, entry[1], unpack(entry[2]))
end

-- A stream's ids go on where they were, and so do its counts and its groups.
local function replace(stream, staged)
  local info, reply = {}, redis.call('XINFO', 'STREAM', stream)
  for index = 1, #reply, 2 do
    info[reply[index]] = reply[index + 1]
  end
  redis.call('XSETID', staged, info['last-generated-id'], 'ENTRIESADDED', info['entries-added'], 'MAXDELETEDID',
    info['max-deleted-entry-id'])
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local of = {}
    for index = 1, #group, 2 do
      of[group[index]] = group[index + 1]
    end
    if of['entries-read'] then
      redis.call('XGROUP', 'CREATE', staged, of['name'], of['last-delivered-id'], 'ENTRIESREAD', of['entries-read'])
    else
      redis.call('XGROUP', 'CREATE', staged, of['name'], of['last-delivered-id'])
    end
  end
  redis.call('UNLINK', stream)
  redis.call('RENAME', staged, stream)
end
if redis.call('EXISTS', staged_events) == 1 then -- all of a log may be cut
  replace(events, staged_events)
end
if ARGV[5] ~= '' then
  replace(KEYS[2], staged_changes)
end

local count = tonumber(ARGV[7])
for index = 8, 7 + 2 * count, 2 do
  redis.call('HSET', pending, ARGV[index], ARGV[index + 1])
end
for index = 8 + 2 * count, #ARGV do
  redis.call('XADD', events, '*', 'event', ARGV[index])
end
redis.call('UNLINK', snapshots, erased)
if redis.call('EXISTS', staged_baseline) == 1 then
  redis.call('UNLINK', baseline, pieces)
  redis.call('RENAME', staged_baseline, baseline)
  redis.call('RENAME', staged_pieces, pieces)
  redis.call('PERSIST', baseline)
  redis.call('PERSIST', pieces)
end
redis.call('HSET', KEYS[5], 'log', ARGV[6])

