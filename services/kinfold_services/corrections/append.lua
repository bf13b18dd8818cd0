-- Appends a correction to the log, if its contact has not changed since somebody looked at it.
--
-- KEYS  events, contacts, position, corrected
-- ARGV  [1] the event   [2] the contact's id   [3] the version that the contact must have; empty: any
--       [4] for how many seconds a correction that is not folded yet holds up the next one
--
-- Returns {'appended', position}, {'moved', version or ''} where the contact has another version, or {'not folded', position}
-- where an earlier correction is in the log and not folded, so that the version is not known yet.

local function is_before(one, other)
  local ms, seq = string.match(one, '(%d+)-(%d+)')
  local other_ms, other_seq = string.match(other, '(%d+)-(%d+)')
  if ms ~= other_ms then
    return tonumber(ms) < tonumber(other_ms)
  end
  return tonumber(seq) < tonumber(other_seq)
end

if ARGV[3] ~= '' then
  local last = redis.call('GET', KEYS[4])
  if last and is_before(redis.call('HGET', KEYS[3], 'stream_id') or '0-0', last) then
    return {'not folded', last}
  end
  local contact = redis.call('HGET', KEYS[2], ARGV[2])
  local version = contact and cjson.decode(contact).version
  if not version or tostring(version) ~= ARGV[3] then
    return {'moved', version and tostring(version) or ''}
  end
end
local position = redis.call('XADD', KEYS[1], '*', 'event', ARGV[1])
redis.call('SET', KEYS[4], position, 'EX', ARGV[4])
return {'appended', position}
