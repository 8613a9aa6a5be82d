--[[
queue: the streams that tasks wait in, and how entries enter and leave them.

A named queue is four streams, one a priority, with one consumer group; its pending list is what runs. A task whose
handler the asking replica lacks waits in a stream of its task name until a replica that has it asks.
]]
local RANKS = { [0] = 'high', 'normal', 'low', 'background' }
local GROUP = 'workers'

local function queue_stream(ctx, queue, rank) return ctx.prefix .. 'queue:' .. queue .. ':' .. RANKS[rank] end

local function park_stream(ctx, name, rank) return ctx.prefix .. 'parked:' .. name .. ':' .. RANKS[rank] end

local function task_name_of(head) return string.match(head, '^"task_name":"([^"]*)"') end

-- The stream that holds the entry of a queued, parked or running task.
local function stream_of(ctx, h, queue, head)
  if h[PLACE] == PARKED then return park_stream(ctx, task_name_of(head), h[RANK]) end
  return queue_stream(ctx, queue, h[RANK])
end

local function make_group(stream)
  -- A group that exists already answers BUSYGROUP, which is what is wanted.
  redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
end

-- Wakes replicas for what no queue stream tells them: a new queue, a cancel, room under a limit.
local function ring(ctx, what, about)
  redis.call('XADD', ctx.prefix .. 'bell', 'MAXLEN', '~', 256, '*', 'what', what, 'about', about)
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

local function entry_id(h) return string.format('%d-%d', h[ENTRY_MS], h[ENTRY_SEQ]) end

local function set_entry(h, id)
  h[ENTRY_MS], h[ENTRY_SEQ] = string.match(id, '^(%d+)-(%d+)$')
end

-- Puts a pending task at the tail of its priority.
local function enqueue(ctx, id, h, queue)
  ensure_queue(ctx, queue)
  set_entry(h, redis.call('XADD', queue_stream(ctx, queue, h[RANK]), '*', 't', id))
  h[PLACE] = QUEUED
end

-- Gathers a delivered entry that is finished, for `retire`.
local function finish_entry(ctx, stream, ms, seq)
  local list = ctx.retired[stream]
  if not list then
    list = {}
    ctx.retired[stream] = list
  end
  list[#list + 1] = { tonumber(ms), tonumber(seq) }
end

-- Acknowledges and deletes the gathered entries, so that XLEN minus the pending ones is what waits.
--
-- Deleting one by one costs more than everything else about an entry. Entries in front of the oldest one that is
-- still pending are all finished, so they are trimmed together; the few behind it are deleted singly.
local function retire(ctx)
  for stream, list in pairs(ctx.retired) do
    for first = 1, #list, CHUNK do
      local ids = {}
      for i = first, math.min(first + CHUNK - 1, #list) do
        ids[#ids + 1] = string.format('%d-%d', list[i][1], list[i][2])
      end
      redis.call('XACK', stream, GROUP, unpack(ids))
    end
    local oldest = redis.call('XPENDING', stream, GROUP, '-', '+', 1)[1]
    local ms, seq = math.huge, 0
    if oldest then
      ms, seq = string.match(oldest[1], '^(%d+)-(%d+)$')
      ms, seq = tonumber(ms), tonumber(seq)
    end
    local last_ms, last_seq, behind = -1, 0, {}
    for i = 1, #list do
      local entry_ms, entry_seq = list[i][1], list[i][2]
      if entry_ms < ms or (entry_ms == ms and entry_seq < seq) then
        if entry_ms > last_ms or (entry_ms == last_ms and entry_seq > last_seq) then
          last_ms, last_seq = entry_ms, entry_seq
        end
      else
        behind[#behind + 1] = string.format('%d-%d', entry_ms, entry_seq)
      end
    end
    if last_ms >= 0 then redis.call('XTRIM', stream, 'MINID', '=', string.format('%d-%d', last_ms, last_seq + 1)) end
    for first = 1, #behind, CHUNK do
      redis.call('XDEL', stream, unpack(behind, first, math.min(first + CHUNK - 1, #behind)))
    end
  end
  ctx.retired = {}
end
