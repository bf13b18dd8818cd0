-- Finds the rights that the user lacks, without running the commands.
--
-- ARGV  [1] commands with their arguments, a JSON array of arrays, where '' stands for a key
--       [2] the keys that the program uses, a JSON array
--
-- Returns the numbers (from 1) of the commands that the user may run with none of the keys, and of the keys that the user may
-- use with none of the commands.

local commands, keys = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local allowed_commands, allowed_keys = {}, {}
for index, command in ipairs(commands) do
  for number, key in ipairs(keys) do
    local words, has_key = {}, false
    for place, word in ipairs(command) do
      words[place] = word == '' and key or word
      has_key = has_key or word == ''
    end
    if redis.acl_check_cmd(unpack(words)) then
      allowed_commands[index] = true
      allowed_keys[number] = allowed_keys[number] or has_key
    end
  end
end

local function missing(allowed, count)
  local numbers = {}
  for number = 1, count do
    if not allowed[number] then
      numbers[#numbers + 1] = number
    end
  end
  return numbers
end
return {missing(allowed_commands, #commands), missing(allowed_keys, #keys)}
