--[[
statistics: one consistent look at the partition, for `stats` and the metrics.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica (or '-')
Returns { 'ok', counters (name, value, ...), queues ({ name, { waiting, running } for each rank }), oldest_ms or -1,
        ended in the last 60 s, dead letters, replicas ({ id, field, value, ... }) } | { 'schema', found }.
        Writes nothing. O(queues + replicas).
]]
local function statistics(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local counters = { 'max_size', ctx.max_size, 'max_running', ctx.max_running }
  for name, value in pairs(ctx.count) do
    -- The number of the last entry is kept among the counters and is none.
    if name ~= 'entry_ms' and name ~= 'entry_seq' then
      counters[#counters + 1] = name
      counters[#counters + 1] = value
    end
  end
  local queues, oldest = {}, -1
  for _, name in ipairs(queue_names(ctx)) do
    local row = { name }
    for rank = 0, 3 do
      local stream = queue_stream(ctx, name, rank)
      local length = redis.call('XLEN', stream)
      local summary = length > 0 and redis.pcall('XPENDING', stream, GROUP)
      local running = summary and not summary.err and summary[1] or 0
      row[#row + 1] = { length - running, running }
      if length > running then
        local since = undelivered_since(stream)
        if since and (oldest < 0 or since < oldest) then oldest = since end
      end
    end
    queues[#queues + 1] = row
  end
  local recent, from = 0, math.floor(ctx.now / 1000) - 60
  local rate = redis.call('HGETALL', ctx.prefix .. 'rate')
  for i = 1, #rate, 2 do
    local second, count = string.match(rate[i + 1], '^(%d+) (%d+)$')
    if second and tonumber(second) > from then recent = recent + tonumber(count) end
  end
  local replicas = {}
  local beats = redis.call('HKEYS', ctx.prefix .. 'beats')
  table.sort(beats)
  for _, id in ipairs(beats) do
    local row = { id }
    local fields = redis.call('HGETALL', ctx.prefix .. 'replica:' .. id)
    for i = 1, #fields do row[#row + 1] = fields[i] end
    replicas[#replicas + 1] = row
  end
  return { 'ok', counters, queues, oldest, recent, redis.call('ZCARD', ctx.prefix .. 'dead'), replicas }
end

register('statistics', statistics, LOOKS)
