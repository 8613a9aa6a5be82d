--[[
statistics: one consistent look at the partition, for `stats` and the metrics.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica (or '-')
Returns { 'ok', counters (name, value, ...), queues ({ name, { waiting, running } for each rank, since_ms or -1 }), oldest_ms
        or -1, ended in the last 60 s, dead letters, replicas ({ id, field, value, ... } with the tasks that each holds as
        field `running`), aside (rank and queue, tasks that wait elsewhere, ...), paused (queue, who and why, ...), since when
        the oldest task of each rank could start (ms or -1; not of paused queues), workflows and sagas under way and ended
        (name, count, ...; see group.lua), streams under whose keys something else stands }
        | { 'schema', found }. Writes nothing. O(queues + replicas).
]]
-- How many delayed tasks are looked at for the oldest one: those that are due next.
local DELAYED_LOOKS = 128

-- When the oldest of some tasks was made, ms; -1 without any.
local function oldest_made(ctx, ids)
  local oldest = -1
  for _, id in ipairs(ids) do
    local h = read_header(load_front(ctx, id, HEADER_BYTES))
    local made = h and h[CREATED]
    if made and (oldest < 0 or made < oldest) then oldest = made end
  end
  return oldest
end

-- The earlier of two moments; -1 is none.
local function earlier(one, other)
  if one < 0 then return other end
  if other < 0 then return one end
  return math.min(one, other)
end

local function statistics(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local counters = { 'max_size', ctx.max_size, 'max_running', ctx.max_running }
  for name, value in pairs(ctx.count) do
    -- Kept among the counters, and none that says anything to others.
    if name ~= 'entry_ms' and name ~= 'entry_seq' and name ~= 'handing' and name ~= 'agent_names' then
      counters[#counters + 1] = name
      counters[#counters + 1] = value
    end
  end
  local queues, oldest, held, ready, wrong = {}, -1, {}, { -1, -1, -1, -1 }, {}
  local paused, is_paused = redis.call('HGETALL', ctx.prefix .. 'paused'), {}
  for i = 1, #paused, 2 do is_paused[paused[i]] = true end
  local desks = {}
  for _, name in ipairs(redis.call('SMEMBERS', ctx.prefix .. 'desks')) do desks[name] = true end
  -- How much of a stream waits and runs, and since when.
  local function look(stream)
    local length = STREAM.call('XLEN', stream)
    if not length then
      wrong[#wrong + 1] = stream
      length = 0
    end
    local summary = length > 0 and redis.pcall('XPENDING', stream, GROUP)
    local running = summary and not summary.err and summary[1] or 0
    if running > 0 then
      for _, one in ipairs(summary[4]) do held[one[1]] = (held[one[1]] or 0) + tonumber(one[2]) end
    end
    return length - running, running, length > running and undelivered_since(stream) or -1
  end
  for _, name in ipairs(queue_names(ctx)) do
    local row, since = { name }, -1
    for rank = 0, 3 do
      local waiting, running, head = look(queue_stream(ctx, name, rank))
      if desks[name] then
        -- What waits there is counted aside.
        local _, by_agents, first = look(AGENT.stream(ctx, name, rank))
        running = running + by_agents
        since = earlier(since, first)
      end
      row[#row + 1] = { waiting, running }
      since = earlier(since, head)
      if not is_paused[name] then ready[rank + 1] = earlier(ready[rank + 1], head) end
    end
    row[#row + 1] = since
    oldest = earlier(oldest, since)
    queues[#queues + 1] = row
  end
  for _, name in ipairs(redis.call('SMEMBERS', ctx.prefix .. 'parks')) do
    for rank = 0, 3 do
      local _, _, head = look(park_stream(ctx, name, rank))
      oldest = earlier(oldest, head)
      ready[rank + 1] = earlier(ready[rank + 1], head)
    end
  end
  oldest = earlier(oldest, oldest_made(ctx, redis.call('ZRANGE', ctx.prefix .. 'timers', 0, DELAYED_LOOKS - 1)))
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
    row[#row + 1] = 'running'
    row[#row + 1] = string.format('%d', held[id] or 0)
    replicas[#replicas + 1] = row
  end
  return { 'ok', counters, queues, oldest, recent, redis.call('ZCARD', ctx.prefix .. 'dead'), replicas,
    redis.call('HGETALL', ctx.prefix .. 'aside'), paused, ready, redis.call('HGETALL', ctx.prefix .. 'groups'), wrong }
end

register('statistics', statistics, LOOKS)
