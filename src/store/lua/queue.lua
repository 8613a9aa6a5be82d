--[[
queue: the streams that tasks wait in, and how entries enter and leave them.

A named queue is four streams, one a priority, with one consumer group; its pending list is what runs. A task whose
handler the asking replica lacks waits in a stream of its task name until a replica that has it asks, and so does one of
a name of which as many run as may.
]]
local RANKS = { [0] = 'high', 'normal', 'low', 'background' }
local GROUP = 'workers'

--[[
Something else than a stream may stand under a stream's key: somebody wrote past the functions. That must not keep what has
nothing to do with it. To readers such a stream is empty; a task that is to enter it waits for its time and tries again. The
statistics tell of it, so that replicas and `doctor` can.
]]
local STREAM = {}
-- How long such a task waits.
STREAM.PAUSE_MS = 5000

-- Calls a command of streams; nil where something else stands under the key.
function STREAM.call(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply) end
  return nil
end

-- Entries of a stream, up to `count`.
function STREAM.range(key, from, to, count) return STREAM.call('XRANGE', key, from, to, 'COUNT', count) or {} end

function STREAM.put_off(ctx, id, h, queue)
  h[PLACE] = DELAYED
  aside(ctx, queue, h[RANK], 1)
  CLOCK.set_timer(ctx, id, ctx.now + STREAM.PAUSE_MS)
end

local function queue_stream(ctx, queue, rank)
  local ranks = ctx.streams[queue]
  if not ranks then
    ranks = {}
    ctx.streams[queue] = ranks
  end
  local stream = ranks[rank]
  if not stream then
    stream = ctx.prefix .. 'queue:' .. queue .. ':' .. RANKS[rank]
    ranks[rank] = stream
  end
  return stream
end

local function park_stream(ctx, name, rank) return ctx.prefix .. 'parked:' .. name .. ':' .. RANKS[rank] end

local function task_name_of(head) return string.match(head, '^"task_name":"([^"]*)"') end

-- Under which name a task is parked. What is for agents stands apart: whoever makes room hands it over.
function AGENT.park(h, name) return has(h, AGENT.FOR) and '@' .. name or name end

-- The name of the tasks for agents that are parked under this one; nil where others are.
function AGENT.parked(park) return string.match(park, '^@(.*)$') end

-- Where what is for agents waits and runs beside a queue.
function AGENT.stream(ctx, queue, rank) return ctx.prefix .. 'agents:' .. queue .. ':' .. RANKS[rank] end

-- The queues by name, in a stable order.
local function queue_names(ctx)
  local names = redis.call('SMEMBERS', ctx.prefix .. 'queues')
  if #names > 1 then table.sort(names) end
  return names
end

-- All streams that replicas may have tasks delivered from, in a stable order.
local function all_streams(ctx)
  local streams = {}
  for _, queue in ipairs(queue_names(ctx)) do
    for rank = 0, 3 do streams[#streams + 1] = queue_stream(ctx, queue, rank) end
  end
  local parks = redis.call('SMEMBERS', ctx.prefix .. 'parks')
  table.sort(parks)
  for _, name in ipairs(parks) do
    for rank = 0, 3 do streams[#streams + 1] = park_stream(ctx, name, rank) end
  end
  return streams
end

local function task_of_entry(stream, id)
  local entry = STREAM.range(stream, id, id, 1)[1]
  return entry and entry[2] and entry[2][2]
end

-- The stream that holds the entry of a queued, parked or running task.
local function stream_of(ctx, h, queue, head)
  if h[PLACE] == PARKED then return park_stream(ctx, AGENT.park(h, task_name_of(head)), h[RANK]) end
  if h[PLACE] == AGENT.PLACE then return AGENT.stream(ctx, queue, h[RANK]) end
  return queue_stream(ctx, queue, h[RANK])
end

local function make_group(stream)
  -- A group that exists already answers BUSYGROUP, which is what is wanted.
  redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
end

-- Makes a queue known on its first use.
local function ensure_queue(ctx, queue)
  local known = ctx.known_queues
  if not known then
    known = {}
    ctx.known_queues = known
  end
  if known[queue] then return end
  known[queue] = true
  local registry = ctx.prefix .. 'queues'
  if redis.call('SISMEMBER', registry, queue) == 1 then return end
  for rank = 0, 3 do make_group(queue_stream(ctx, queue, rank)) end
  redis.call('SADD', registry, queue)
  ring(ctx, 'queue', queue)
end

-- An entry id from its two numbers; many entries share a millisecond.
local function entry_text(ctx, ms, seq)
  local text = ctx.milliseconds[ms]
  if not text then
    text = string.format('%d-', ms)
    ctx.milliseconds[ms] = text
  end
  return text .. digits(seq)
end

local function entry_id(ctx, h) return entry_text(ctx, h[ENTRY_MS], h[ENTRY_SEQ]) end

local function entry_numbers(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

-- Whether one entry id stands behind another.
local function is_later(one, other)
  local ms, seq = entry_numbers(one)
  local other_ms, other_seq = entry_numbers(other)
  return ms > other_ms or (ms == other_ms and seq > other_seq)
end

local function set_entry(h, id)
  h[ENTRY_MS], h[ENTRY_SEQ] = entry_numbers(id)
end

-- The next number of an entry: by the clock, counting on within a millisecond and after a clock that went back. One
-- series for all streams of the partition, so that their entries have one order.
local function next_entry(ctx)
  local count = ctx.count
  if ctx.now > count.entry_ms then
    count.entry_ms, count.entry_seq = ctx.now, 0
  else
    count.entry_seq = count.entry_seq + 1
  end
  return entry_text(ctx, count.entry_ms, count.entry_seq)
end

-- Adds an entry under a number. Behind an outsider's that is numbered higher, Redis numbers it. Nil where there can be none.
local function add_entry(stream, number, id)
  local reply = redis.pcall('XADD', stream, number, 't', id)
  if reply.err then reply = STREAM.call('XADD', stream, '*', 't', id) end
  return reply
end

-- Puts a pending task at the tail of its priority.
local function enqueue(ctx, id, h, queue)
  ensure_queue(ctx, queue)
  if h[FLAGS] >= AGENT.FOR and has(h, AGENT.FOR) then
    AGENT.ensure(ctx, queue)
    local handed = add_entry(AGENT.stream(ctx, queue, h[RANK]), next_entry(ctx), id)
    if not handed then return STREAM.put_off(ctx, id, h, queue) end
    set_entry(h, handed)
    h[PLACE] = AGENT.PLACE
    ctx.count.handing = ctx.count.handing + 1
    return aside(ctx, queue, h[RANK], 1)
  end
  local number = next_entry(ctx)
  local entry = add_entry(queue_stream(ctx, queue, h[RANK]), number, id)
  if not entry then return STREAM.put_off(ctx, id, h, queue) end
  if entry == number then
    h[ENTRY_MS], h[ENTRY_SEQ] = ctx.count.entry_ms, ctx.count.entry_seq
  else
    set_entry(h, entry)
  end
  h[PLACE] = QUEUED
  ctx.fresh[id] = true
end

-- Gathers a delivered entry that is finished, for `retire`.
local function finish_entry(ctx, stream, ms, seq)
  local list = ctx.retired[stream]
  if not list then
    list = {}
    ctx.retired[stream] = list
  end
  local count = #list
  list[count + 1] = ms
  list[count + 2] = seq
end

-- Acknowledges and deletes the gathered entries, so that XLEN minus the pending ones is what waits.
--
-- Deleting one by one costs more than everything else about an entry. Entries in front of the oldest one that is
-- still pending are all finished, so they are trimmed together; the few behind it are deleted singly.
local function retire(ctx)
  for stream, list in pairs(ctx.retired) do
    local ids = {}
    for i = 1, #list, 2 do ids[#ids + 1] = entry_text(ctx, list[i], list[i + 1]) end
    for first = 1, #ids, CHUNK do
      STREAM.call('XACK', stream, GROUP, unpack(ids, first, math.min(first + CHUNK - 1, #ids)))
    end
    local pending = redis.pcall('XPENDING', stream, GROUP, '-', '+', 1)
    local oldest_ms, oldest_seq = math.huge, 0
    if pending.err then
      -- Somebody removed the group, and nobody knows any more what stands in front of these.
      make_group(stream)
      oldest_ms = -1
    elseif pending[1] then
      oldest_ms, oldest_seq = entry_numbers(pending[1][1])
    end
    local last_ms, last_seq, behind = -1, 0, {}
    for i = 1, #list, 2 do
      local ms, seq = list[i], list[i + 1]
      if ms < oldest_ms or (ms == oldest_ms and seq < oldest_seq) then
        if ms > last_ms or (ms == last_ms and seq > last_seq) then last_ms, last_seq = ms, seq end
      else
        behind[#behind + 1] = ids[(i + 1) / 2]
      end
    end
    if last_ms >= 0 then STREAM.call('XTRIM', stream, 'MINID', '=', entry_text(ctx, last_ms, last_seq + 1)) end
    for first = 1, #behind, CHUNK do
      STREAM.call('XDEL', stream, unpack(behind, first, math.min(first + CHUNK - 1, #behind)))
    end
  end
  ctx.retired = {}
end
