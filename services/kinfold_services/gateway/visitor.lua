-- A visitor and the living contacts that it names, all of one moment: a replay may replace the whole state behind it.
--
-- KEYS  visitors, contacts
-- ARGV  the visitor's id, how many of its links to follow, the newest first
--
-- Returns the visitor's JSON, then for each contact that those links name its id and the JSON of the one that it has become.
-- Nothing where there is no such visitor; an id that leads nowhere is left out.

local visitor = redis.call('HGET', KEYS[1], ARGV[1])
if not visitor then
  return {}
end
local answer, seen = {visitor}, {}
local links = cjson.decode(visitor).links
for index = #links, math.max(1, #links - ARGV[2] + 1), -1 do
  local named = links[index].contactId
  if not seen[named] then
    seen[named] = true
    local id, contact, passed = named, nil, {}
    repeat
      passed[id] = true
      contact = redis.call('HGET', KEYS[2], id)
      -- Not decoded: a living contact may be large.
      id = contact and string.match(contact, '^{"id":"[^"]*","mergedInto":"([^"]*)"')
    until not id or passed[id]
    if contact and not id then
      answer[#answer + 1] = named
      answer[#answer + 1] = contact
    end
  end
end
return answer
