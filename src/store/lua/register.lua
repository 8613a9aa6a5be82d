--[[
register: gives the functions their names.

Library and names carry a version, since names are global in Redis and old and new replicas run side by side while a
release rolls out. Without flags Redis refuses a function up-front when its memory is full. Only what adds data may be
refused so; all else must go on, or a full system could not drain: it says `DRAINS`.

Each part with a function ends by registering it, and is a block of its own: Lua allows 200 names at the top.
]]
local ADDS, DRAINS, LOOKS = {}, { 'allow-oom' }, { 'no-writes' }

local function register(name, callback, flags)
  redis.register_function { function_name = LIBRARY .. '_' .. name, callback = callback, flags = flags }
end
