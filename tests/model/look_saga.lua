--[[
Everything about a saga that the model knows too, as text to be compared.

ARGV    1 prefix of the partition's keys  2 saga  3... task ids
Returns the records in order, and the rest as lines.
]]
local prefix, saga, raws, lines = ARGV[1], ARGV[2], {}, {}
for i = 3, #ARGV do raws[#raws + 1] = redis.call('GET', prefix .. 't:' .. ARGV[i]) end

local group = redis.call('HMGET', prefix .. 'w:' .. saga, 'state', 'abort', 'passed', 'left', 'failed_step', 'total')
if not group[1] then return { raws, lines } end
lines[#lines + 1] = string.format('saga %s abort %s passed %s left %s failed %s', group[1], group[2], group[3], group[4], group[5])
lines[#lines + 1] = 'owed ' .. table.concat(redis.call('LRANGE', prefix .. 'e:' .. saga, 0, -1), ',')
lines[#lines + 1] = 'left over ' .. table.concat(redis.call('LRANGE', prefix .. 'u:' .. saga, 0, -1), ',')
for step = 0, tonumber(group[6]) - 1 do
  local known = redis.call('HMGET', prefix .. 's:' .. saga, 'z' .. step, 'o' .. step, 'q' .. step, 't' .. step, 'l' .. step)
  for i = 1, 5 do known[i] = known[i] or '-' end
  lines[#lines + 1] = 'step ' .. step .. ' ' .. table.concat(known, ' ')
end
for _, letter in ipairs(redis.call('ZRANGE', prefix .. 'dead', 0, -1)) do lines[#lines + 1] = 'letter ' .. letter end
return { raws, lines }
