-- Reads a visitor and its living contacts in one step, since a replay may replace the state between two commands.
--
-- KEYS  visitors, contacts
-- ARGV  the visitor's id, how many of its links to follow, newest first
--
-- Returns the visitor's JSON, then for each contact id in those links the id and the JSON of the living contact that it leads
-- to. Ids that lead to no contact are left out. Returns nothing if the visitor does not exist.

local visitor = redis.call('HGET', KEYS[1], ARGV[1])
if not visitor then
  return {}
end
local answer, seen = {visitor}, {}
local links = cjson.decode(visitor).links or {}
for index = #links, math.max(1, #links - ARGV[2] + 1), -1 do
  local named = links[index].contactId
  if named ~= cjson.null and not seen[named] then  -- null: a correction unlinked the visitor
    seen[named] = true
    local id, contact, passed = named, nil, {}
    repeat
      passed[id] = true
      contact = redis.call('HGET', KEYS[2], id)
      -- Matched, not decoded, because a living contact may be large.
      id = contact and string.match(contact, '^{"id":"[^"]*","mergedInto":"([^"]*)"')
    until not id or passed[id]
    if contact and not id then
      answer[#answer + 1] = named
      answer[#answer + 1] = contact
    end
  end
end
return answer
