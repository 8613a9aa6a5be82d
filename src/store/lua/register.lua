--[[
register: gives the functions their names.

Library and names carry a version, since names are global in Redis and old and new replicas run side by side while a
release rolls out. Without flags Redis refuses a function up-front when its memory is full. Only what adds data may be
refused so; all else must go on, or a full system could not drain.
]]
local function register(name, callback, flags)
  redis.register_function { function_name = LIBRARY .. '_' .. name, callback = callback, flags = flags }
end

register('create', create, {})
register('reject', reject, {})
register('statistics', statistics, { 'no-writes' })
register('join', join, { 'allow-oom' })
register('claim', claim, { 'allow-oom' })
register('settle', settle, { 'allow-oom' })
register('cancel', cancel, { 'allow-oom' })
register('promote', promote, { 'allow-oom' })
register('beat', beat, { 'allow-oom' })
register('takeover', takeover, { 'allow-oom' })
register('leave', leave, { 'allow-oom' })
register('acknowledge', acknowledge, { 'allow-oom' })
register('forget', forget, { 'allow-oom' })
register('limits', limits, { 'allow-oom' })
