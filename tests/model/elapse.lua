--[[
Time passes: all that is timed moves into the past. When somebody last looked at the timers stays.

KEYS    1... sorted sets by time
ARGV    1 ms  2 prefix of the partition's keys  3... tasks that agents have or had
]]
local ms, prefix = tonumber(ARGV[1]), ARGV[2]
local meta = prefix .. 'meta'
local function age(key, field)
  if redis.call('HEXISTS', key, field) == 1 then redis.call('HINCRBY', key, field, -ms) end
end

age(meta, 'told_ms')
age(meta, 'awake_ms')
for _, key in ipairs(KEYS) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -ms, member) end
end
for i = 3, #ARGV do
  local raw, own = redis.call('GET', prefix .. 't:' .. ARGV[i]), prefix .. 'g:' .. ARGV[i]
  age(own, 'beat')
  age(own, 'read')
  age(own, 'since')
  if raw and string.byte(raw, 1) == 82 and string.sub(raw, 31, 40) == 'agent-----' then
    local from = redis.call('HGET', own, 'from') or struct.unpack('>I6', raw, 49)
    redis.call('HSET', own, 'from', string.format('%d', from - ms))
  end
end
for _, agent in ipairs(redis.call('SMEMBERS', prefix .. 'agents')) do
  local inbox = prefix .. 'agent:' .. agent
  for _, one in ipairs(redis.call('XPENDING', inbox, agent, '-', '+', 1000)) do
    redis.call('XCLAIM', inbox, agent, one[2], 0, one[1], 'IDLE', string.format('%d', one[3] + ms), 'JUSTID')
  end
end
