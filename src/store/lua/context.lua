--[[
context: what every function begins and ends with.

`open` reads the partition's own hash once: schema number, limits and counters. Functions count on the copy and `close`
writes back what changed, so a batch of any size costs one read and one write. Records that changed are gathered too and
leave in one MSET. Nothing here decides anything.
]]
local SCHEMA = '1'
local FIELDS = {
  'schema', 'max_size', 'max_running', 'overdue_ms', 'waiting_ms', 'tight_ms', 'p0', 'p1', 'p2', 'p3',
  'running', 'completed', 'failed', 'timeout', 'cancelled', 'duration_ms', 'served', 'parked', 'entry_ms', 'entry_seq',
  'opening', 'backlog', 'paused', 'handing', 'agent_names', 'limited',
}
-- The first of FIELDS that is a counter.
local FIRST_COUNTER = 7
-- The counter of what waits, by rank.
local WAITING = { [0] = 'p0', 'p1', 'p2', 'p3' }
-- Lua refuses to unpack more values than its C stack holds; a batch is cut well below that.
local CHUNK = 1000

-- Small whole numbers as text, kept from call to call: formatting one costs as much as a command.
local DIGITS = {}
local DIGITS_MAX = 1024

local function digits(number)
  local text = DIGITS[number]
  if not text then
    text = string.format('%d', number)
    if number < DIGITS_MAX then DIGITS[number] = text end
  end
  return text
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Days to date after Howard Hinnant, https://howardhinnant.github.io/date_algorithms.html#civil_from_days
local function iso(ms)
  local floor = math.floor
  local days = floor(ms / 86400000)
  local rest = ms - days * 86400000
  local z = days + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local day = doy - floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day, floor(rest / 3600000),
    floor(rest / 60000) % 60, floor(rest / 1000) % 60, rest % 1000)
end

-- The context of one call, or nil and a reply when the partition does not speak this schema.
local function open(keys, replica)
  local meta = keys[1]
  local values = redis.call('HMGET', meta, unpack(FIELDS))
  if values[1] ~= SCHEMA then return nil, { 'schema', values[1] or '' } end
  local ctx = {
    meta = meta,
    prefix = string.sub(meta, 1, -5),
    replica = replica,
    source = 'orchestration-runtime/' .. replica,
    now = now_ms(),
    max_size = tonumber(values[2]) or 1000,
    max_running = tonumber(values[3]) or 0,
    overdue_ms = tonumber(values[4]) or 0,
    waiting_ms = tonumber(values[5]) or 0,
    tight_ms = tonumber(values[6]) or 0,
    writes = {},
    retired = {},
    endings = {},
    groups = {},
    streams = {},
    milliseconds = {},
    aside = {},
    expired = {},
    limits = {},
    fresh = {},
    results = {},
  }
  ctx.iso = iso(ctx.now)
  ctx.events = ctx.prefix .. 'events'
  local count, before = {}, {}
  for i = FIRST_COUNTER, #FIELDS do
    local value = tonumber(values[i]) or 0
    count[FIELDS[i]], before[i] = value, value
  end
  ctx.count, ctx.before = count, before
  return ctx
end

-- The latest time by the clock of Redis that was seen is kept in `meta`, so that a clock that goes back is noticed (see clock.lua).
-- It may be behind by a grain, so that not each call writes.
local CLOCK = { GRAIN_MS = 500 }

-- Lets a task be looked at when it is due. The time by which that is reckoned is noted: were the clock ahead only until the next
-- look, nobody would know that the timer has to go back with it.
function CLOCK.set_timer(ctx, id, due)
  if not ctx.has_noted then
    ctx.has_noted = true
    local seen = tonumber(redis.call('HGET', ctx.meta, 'clock_ms') or nil) or 0
    if ctx.now - seen >= CLOCK.GRAIN_MS then redis.call('HSET', ctx.meta, 'clock_ms', string.format('%d', ctx.now)) end
  end
  redis.call('ZADD', ctx.prefix .. 'timers', string.format('%d', due), id)
end

-- Whether an operator has set one of the limits; '1' stood for both before each was kept by itself.
local function is_limit_set(set, name) return set == '1' or string.find(set, name, 1, true) ~= nil end

-- Writes the gathered records.
local function flush(ctx)
  local writes = ctx.writes
  for first = 1, #writes, CHUNK do
    redis.call('MSET', unpack(writes, first, math.min(first + CHUNK - 1, #writes)))
  end
  ctx.writes = {}
end

-- Writes the fields of groups that changed.
local function save_groups(ctx)
  for id, group in pairs(ctx.groups) do
    local changed = { 'HSET', ctx.prefix .. 'w:' .. id }
    for field, before in pairs(group and group.before or {}) do
      local value = group[field]
      if value ~= before then
        changed[#changed + 1] = field
        changed[#changed + 1] = type(value) == 'number' and string.format('%d', value) or value
      end
    end
    if #changed > 2 then redis.call(unpack(changed)) end
  end
end

-- Counts that a task of a queue begins (1) or ends (-1) to wait elsewhere than in the queue's own streams: parked, for
-- its time, or for other tasks. What waits in the streams is counted by them.
local function aside(ctx, queue, rank, change)
  local field = rank .. queue
  ctx.aside[field] = (ctx.aside[field] or 0) + change
end

-- Wakes replicas for what no queue stream tells them: a new queue, a cancel, room under a limit.
local function ring(ctx, what, about)
  redis.call('XADD', ctx.prefix .. 'bell', 'MAXLEN', '~', 256, '*', 'what', what, 'about', about)
end

-- Writes the gathered records, and what changed of groups and counters. Wakes who waits for work where this call has put
-- some into a queue and left it there. Nobody waits behind the queues themselves: most of what enters one is taken by the
-- same call, and would wake replicas for nothing.
local function close(ctx)
  flush(ctx)
  if next(ctx.fresh) then redis.call('XADD', ctx.prefix .. 'ready', 'MAXLEN', '~', 16, '*', 't', '') end
  save_groups(ctx)
  for field, change in pairs(ctx.aside) do
    if change ~= 0 and redis.call('HINCRBY', ctx.prefix .. 'aside', field, change) <= 0 then
      redis.call('HDEL', ctx.prefix .. 'aside', field)
    end
  end
  for name, limit in pairs(ctx.limits) do
    -- What is parked finds room.
    if limit and limit.was_full and limit.running < limit.most and ctx.count.parked > 0 then ring(ctx, 'room', name) end
  end
  local changed = { 'HSET', ctx.meta }
  for i = FIRST_COUNTER, #FIELDS do
    local value = ctx.count[FIELDS[i]]
    if value ~= ctx.before[i] then
      changed[#changed + 1] = FIELDS[i]
      changed[#changed + 1] = string.format('%d', value)
    end
  end
  if #changed > 2 then redis.call(unpack(changed)) end
end
