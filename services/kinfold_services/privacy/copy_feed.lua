-- Copies a page of the change feed into the staging area, under the same ids. What is about an erased contact loses its body.
-- So does what shows an identifier of the erased person in another contact: one that a replay has separated from theirs since,
-- or that is gone.
--
-- KEYS  changes, staged changes, staged erased: contact ids, and also the identifiers if they are many;
--       staged position
-- ARGV  [1] the generation of the staging area
--       [2] copy after this entry ('' is the beginning)   [3] at most this many   [4] 1 if the identifiers are many
--       then the identifiers, as JSON writes them between quotes, if they are few
--
-- Returns the id of the last entry that was copied ('' for none), how many were, and how many of them lost their body.
-- Or 'replaced', where another process has claimed the staging area.

if redis.call('HGET', KEYS[4], 'generation') ~= ARGV[1] then
  return 'replaced'
end
local first = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local page = redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', ARGV[3])
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
  -- Conflicts of others, and their dismissals. `heldBy` stands behind the body, so the last one is it.
  ask(-index, string.match(change, '^{"type":"%a*Conflict%a*".*"heldBy":"(ct_[0-9a-z]+)"'))
end
local erased, holders = {}, {}
for number, found in ipairs(redis.call('SMISMEMBER', unpack(asked))) do
  if found == 1 then
    local index = places[number]
    if index > 0 then erased[index] = asked[number + 1] else holders[-index] = true end
  end
end
-- Which of the identifiers the page holds anywhere: as it is written, and as it is read.
local written, wanted = {}, {}
local function hold(text)
  local ok, read = pcall(cjson.decode, '["' .. text .. '"]')
  if ok then
    written[#written + 1] = '"' .. text .. '"'
    wanted[read[1]] = true
  end
end
for index = 5, #ARGV do
  hold(ARGV[index])
end
if ARGV[4] == '1' then
  local seen, some = {}, {}
  local function ask_for_some()
    for number, found in ipairs(#some > 0 and redis.call('SMISMEMBER', KEYS[3], unpack(some)) or {}) do
      if found == 1 then hold(some[number]) end
    end
    some = {}
  end
  for _, entry in ipairs(page) do
    for text in string.gmatch(entry[2][2] or '', '"([^"]*)"') do
      if not seen[text] then
        seen[text], some[#some + 1] = true, text
        if #some == 5000 then ask_for_some() end
      end
    end
  end
  ask_for_some()
end

local function shows(change)
  local is_near = false
  for _, text in ipairs(written) do
    is_near = is_near or string.find(change, text, 1, true) ~= nil
  end
  if not is_near then
    return false
  end
  local ok, said = pcall(cjson.decode, change)
  local body = ok and said['contact']
  if type(body) ~= 'table' then
    return false
  end
  local shown = wanted[body['externalId']] or wanted[body['email']] or wanted[said['visitorId']]
  for _, visitor in ipairs(body['visitorIds']) do
    shown = shown or wanted[visitor]
  end
  return shown
end

local nothing = '"externalId":null,"email":null,"name":null,"image":null,"metadata":{},"metadataHash":'
  .. '"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","visitorCount":0,"visitorIds":[]'
local last, changed = '', 0
for index, entry in ipairs(page) do
  local fields = entry[2]
  local version = string.match(fields[2] or '', '"version":(%d+)') or '0'
  local at = string.match(fields[2] or '', '"at":"([^"]*)"') or ''
  if erased[index] then
    fields = {'change', '{"type":"ContactErased","contactId":"' .. erased[index] .. '","version":' .. version .. ',"at":"' .. at
      .. '","cause":"erasure"}'}
    changed = changed + 1
  elseif shows(fields[2] or '') then
    local id = string.match(fields[2], '"contactId":"(ct_[0-9a-z]+)"')
    local times = string.gsub('"firstSeenAt":?,"lastSeenAt":?,"createdAt":?,"updatedAt":?', '?', '"' .. at .. '"')
    fields = {'change', '{"type":"ContactUpdated","contactId":"' .. id .. '","version":' .. version .. ',"at":"' .. at
      .. '","cause":"erasure","contact":{"id":"' .. id .. '",' .. nothing .. ',' .. times .. ',"version":' .. version
      .. '},"changed":[]}'}
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
