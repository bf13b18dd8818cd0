-- Copies a page of the change feed into the staging area, under the same ids. What is about an erased contact loses its body.
--
-- KEYS  changes, staged changes, staged erased
-- ARGV  [1] copy behind this entry ('' is the beginning)   [2] at most so many
--
-- Returns the id of the last entry that was copied ('' for none), how many were, and how many of them lost their body.

local first = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local page = redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', ARGV[2])
if #page == 0 then
  return {'', 0, 0}
end
-- The first contactId of a change is its own: the type stands before it, and the contact behind it.
local asked, places = {KEYS[3]}, {}
local function ask(index, id)
  if id then
    asked[#asked + 1] = id
    places[#places + 1] = index
  end
end
for index, entry in ipairs(page) do
  local change = entry[2][2] or ''
  ask(index, string.match(change, '"contactId":"(ct_[0-9a-z]+)"') or 'none')
  ask(-index, string.sub(change, 1, 26) == '{"type":"IdentityConflict"' and string.match(change, '"heldBy":"(ct_[0-9a-z]+)"'))
end
local erased, holders = {}, {}
for number, found in ipairs(redis.call('SMISMEMBER', unpack(asked))) do
  if found == 1 then
    local index = places[number]
    if index > 0 then erased[index] = asked[number + 1] else holders[-index] = true end
  end
end
local last, changed = '', 0
for index, entry in ipairs(page) do
  local fields = entry[2]
  if erased[index] then
    local version = string.match(fields[2], '"version":(%d+)') or '0'
    local at = string.match(fields[2], '"at":"([^"]*)"') or ''
    fields = {'change', '{"type":"ContactErased","contactId":"' .. erased[index] .. '","version":' .. version .. ',"at":"' .. at
      .. '","cause":"erasure"}'}
    changed = changed + 1
  elseif holders[index] then
    -- The contact's own address stands in its body, so the last one is the conflict's.
    local before, behind = string.match(fields[2], '^(.*"email":)".*"(,"heldBy":"ct_[0-9a-z]+".*)$')
    if before then
      fields = {'change', before .. '"erased@erased.invalid"' .. behind}
      changed = changed + 1
    end
  end
  redis.call('XADD', KEYS[2], entry[1], unpack(fields))
  last = entry[1]
end
return {last, #page, changed}
