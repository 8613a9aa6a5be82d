--[[
Everything about a partition that the model knows too, as text to be compared.

ARGV    1 prefix of the partition's keys  2... task ids
Returns the records in order, and the rest as lines.
]]
local prefix, raws, lines = ARGV[1], {}, {}
for i = 2, #ARGV do raws[#raws + 1] = redis.call('GET', prefix .. 't:' .. ARGV[i]) end
local function line(words) lines[#lines + 1] = table.concat(words, ' ') end

for i = 2, #ARGV do
  if not raws[i - 1] and redis.call('EXISTS', prefix .. 'x:' .. ARGV[i]) == 1 then line({ 'left over', ARGV[i] }) end
  local life = redis.call('HGET', prefix .. 'x:' .. ARGV[i], 'life')
  if life then line({ 'life', ARGV[i], life }) end
end
local group = redis.call('LRANGE', prefix .. 'group:flow', 0, -1)
table.sort(group)
table.insert(group, 1, 'group')
line(group)

local timers = redis.call('ZRANGE', prefix .. 'timers', 0, -1, 'WITHSCORES')
local due = { 'timers' }
for i = 1, #timers, 2 do due[#due + 1] = timers[i] .. '=' .. timers[i + 1] end
line(due)

local beats = redis.call('HGETALL', prefix .. 'beats')
for i = 1, #beats, 2 do
  line({ 'beat', beats[i], beats[i + 1] })
  for _, name in ipairs(redis.call('SMEMBERS', prefix .. 'can:' .. beats[i])) do line({ 'can', beats[i], name }) end
  for _, field in ipairs(redis.call('HKEYS', prefix .. 'replica:' .. beats[i])) do
    local name = string.match(field, '^circuit:(.*)$')
    if name then line({ 'paused', beats[i], name }) end
  end
end

local limits = redis.call('HGETALL', prefix .. 'limits')
for i = 1, #limits, 2 do
  local running = redis.call('SMEMBERS', prefix .. 'running:' .. limits[i])
  table.sort(running)
  line({ 'limit', limits[i], limits[i + 1], unpack(running) })
end

local function lane(stream)
  local key = prefix .. stream
  local entries, owners = redis.call('XRANGE', key, '-', '+'), {}
  local pending = redis.pcall('XPENDING', key, 'workers', '-', '+', 1000)
  if not pending.err then
    for _, one in ipairs(pending) do owners[one[1]] = one[2] end
  end
  local words = { 'lane', stream }
  for _, entry in ipairs(entries) do
    words[#words + 1] = entry[2][2] .. '@' .. (owners[entry[1]] or '-')
    owners[entry[1]] = nil
  end
  for _, owner in pairs(owners) do words[#words + 1] = 'deleted@' .. owner end
  if #words > 2 then line(words) end
end

for _, kind in ipairs({ { 'queues', 'queue:' }, { 'parks', 'parked:' }, { 'desks', 'agents:' } }) do
  for _, name in ipairs(redis.call('SMEMBERS', prefix .. kind[1])) do
    for _, priority in ipairs({ 'high', 'normal', 'low', 'background' }) do lane(kind[2] .. name .. ':' .. priority) end
  end
end

line({ 'handing', redis.call('HGET', prefix .. 'meta', 'handing') or '0' })
local routes = redis.call('HGETALL', prefix .. 'agent_names')
for i = 1, #routes, 2 do line({ 'agent of', routes[i], routes[i + 1] }) end
if tonumber(redis.call('HGET', prefix .. 'meta', 'agent_names') or '0') ~= #routes / 2 then line({ 'agent_names miscounted' }) end
for i = 2, #ARGV do
  local own = redis.call('HGETALL', prefix .. 'g:' .. ARGV[i])
  if own[1] then
    local fields, ends = {}, {}
    for at = 1, #own, 2 do
      fields[own[at]] = own[at + 1]
      local attempt = string.match(own[at], '^r(%d+)$')
      if attempt then ends[#ends + 1] = tonumber(attempt) end
    end
    table.sort(ends)
    local words = { 'desk', ARGV[i], fields.agent, fields.silence, fields.timeout, fields.progress or '-' }
    for _, attempt in ipairs(ends) do words[#words + 1] = 'r' .. attempt .. '=' .. fields['r' .. attempt] end
    line(words)
  end
end
for _, agent in ipairs(redis.call('SMEMBERS', prefix .. 'agents')) do
  local inbox, readers = prefix .. 'agent:' .. agent, {}
  for _, one in ipairs(redis.call('XPENDING', inbox, agent, '-', '+', 1000)) do readers[one[1]] = one[2] end
  local words = { 'inbox', agent }
  for _, entry in ipairs(redis.call('XRANGE', inbox, '-', '+')) do
    local fields = {}
    for at = 1, #entry[2], 2 do fields[entry[2][at]] = entry[2][at + 1] end
    local kind = string.match(fields.event_type, '[^.]*$')
    local payload = cjson.decode(fields.payload)
    words[#words + 1] = kind .. ':' .. payload.task_id .. '.' .. payload.attempt .. '@' .. (readers[entry[1]] or '-')
    readers[entry[1]] = nil
  end
  for _, reader in pairs(readers) do words[#words + 1] = 'deleted@' .. reader end
  line(words)
end
return { raws, lines }
