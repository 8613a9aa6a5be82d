--[[
rights: names the commands that the calling user may not use on the keys of the runtime.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica (or '-')  2... commands, each its words with line breaks between them
Returns { 'ok', { place, ... } }: the places of the refused ones in the list, from 1. Writes nothing and runs none of
        them. O(commands).
]]
local function rights(keys, args)
  local refused = {}
  for at = 2, #args do
    local words = {}
    for word in string.gmatch(args[at], '[^\n]+') do words[#words + 1] = word end
    if not redis.acl_check_cmd(unpack(words)) then refused[#refused + 1] = at - 1 end
  end
  return { 'ok', refused }
end

register('rights', rights, LOOKS)
