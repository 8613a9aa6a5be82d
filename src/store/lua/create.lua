--[[
create: makes tasks out of checked triggers, and hands out work for the caller's free slots in the same call.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 who asks: any (the name needs no handler), named (it does), stream (it does, and triggers of
        other replicas may wait), turn (as stream, and the caller holds the oldest trigger that waits)  3 free slots ("0,3")  4 runs any task ('1' or '0')  5 max_wait_ms
        then five for each task: id, routing ("name queue rank max_retries start group", where start is '-', '+delay_ms'
        or due ms and group '-' or the workflow's id), origin (cause, or "cause \n correlation_id \n trace"), payload
        (of the created event, JSON without its last members and brace), body (see record.lua)
Returns { 'ok', { word, ... }, started } with a word for each task in order: ok, duplicate (exists; nothing changed),
        unknown (no replica has registered the name within the last hour), full (this and all after it must wait),
        queues (there are as many queues as there may be, and this would be one more);
        or { 'schema', found }. O(tasks).
]]
local CREATE_ARGS = 5
local HANDLER_MEMORY_MS = 3600000
-- How long triggers that found the queue full are taken to wait; they ask again much sooner.
local WAITING_MS = 1000
-- Every claim looks at every queue, so their number is bounded.
local QUEUES_MAX = 256

-- Whether tasks may wait in a queue: it is known, or there is room for one more.
local function has_place(ctx, queue)
  local registry = ctx.prefix .. 'queues'
  return redis.call('SISMEMBER', registry, queue) == 1 or redis.call('SCARD', registry) < QUEUES_MAX
end

-- What a routing says; most tasks of a batch share one.
local function parse_routing(text)
  local name, queue, rank, max_retries, start, group = string.match(text, '^(%S+) (%S+) (%d) (%d+) (%S+) (%S+)$')
  return {
    name = name, queue = queue, rank = tonumber(rank), max_retries = tonumber(max_retries),
    start = start ~= '-' and start or nil, group = group ~= '-' and group or nil,
  }
end

local function create(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local strict, from_stream = args[2] ~= 'any', args[2] == 'stream' or args[2] == 'turn'
  -- While the oldest trigger waits for room, none behind it may slip in; a moment further away than any such wait was
  -- written by a clock that has gone back since.
  local must_wait = args[2] == 'stream' and ctx.now < ctx.waiting_ms and ctx.waiting_ms <= ctx.now + WAITING_MS
  local total = ctx.count.p0 + ctx.count.p1 + ctx.count.p2 + ctx.count.p3 + ctx.count.running
  local count = math.floor((#args - 5) / CREATE_ARGS)
  local ids, existing = {}, {}
  for i = 1, count do ids[i] = args[6 + (i - 1) * CREATE_ARGS] end
  local keys_of_ids = task_keys(ctx, ids)
  -- One command tells in the common case that none exists; only then is it worth asking for each.
  local present = 0
  for first = 1, count, CHUNK do
    present = present + redis.call('EXISTS', unpack(keys_of_ids, first, math.min(first + CHUNK - 1, count)))
  end
  if present > 0 then
    for i = 1, count do existing[ids[i]] = redis.call('EXISTS', keys_of_ids[i]) == 1 end
  end

  -- Where not all fit, those admitted must be the oldest of all replicas'.
  local fits = ctx.max_size == 0 or total + count <= ctx.max_size
  if from_stream and not fits then
    must_wait = args[2] == 'stream'
    redis.call('HSET', ctx.meta, 'waiting_ms', string.format('%d', ctx.now + WAITING_MS))
  end
  local words, known, routings = {}, {}, {}
  for i = 1, count do
    local id, routing_text, origin, payload, body =
      unpack(args, 6 + (i - 1) * CREATE_ARGS, 5 + i * CREATE_ARGS)
    local routing = routings[routing_text]
    if not routing then
      routing = parse_routing(routing_text)
      routings[routing_text] = routing
      routing.has_place = has_place(ctx, routing.queue)
      if strict and known[routing.name] == nil then
        local seen = redis.call('ZSCORE', ctx.prefix .. 'handlers', routing.name)
        known[routing.name] = seen and ctx.now - seen < HANDLER_MEMORY_MS or false
      end
    end
    if must_wait then
      words[i] = 'full'
    elseif existing[id] then
      words[i] = 'duplicate'
    elseif strict and not known[routing.name] then
      words[i] = 'unknown'
    elseif not routing.has_place then
      words[i] = 'queues'
    elseif ctx.max_size > 0 and total >= ctx.max_size then
      for rest = i, count do words[rest] = 'full' end
      break
    else
      local rank = routing.rank
      local h = { PENDING, QUEUED, rank, 0, 0, 0, routing.max_retries, 1, 0, 0, NOBODY, 0, ctx.now, 0, 0, #body }
      local run_at = 'null'
      local due
      if routing.start then
        local delay = string.match(routing.start, '^%+(%d+)$')
        due = delay and ctx.now + tonumber(delay) or tonumber(routing.start)
        run_at = '"' .. iso(due) .. '"'
      end
      if due and due > ctx.now then
        h[PLACE] = DELAYED
        redis.call('ZADD', ctx.prefix .. 'timers', string.format('%d', due), id)
      else
        enqueue(ctx, id, h, routing.queue)
      end
      local cause, correlation, trace = origin, origin, nil
      if string.find(origin, '\n', 1, true) then
        cause, correlation, trace = string.match(origin, '^([^\n]*)\n([^\n]*)\n(.*)$')
      end
      emit(ctx, 'orchestration.task.created', id, 1, correlation, cause,
        payload .. ',"run_at":' .. run_at .. ',"created_at":"' .. ctx.iso .. '"}', trace)
      if #body <= SMALL_BYTES then
        local writes = ctx.writes
        local written = #writes
        writes[written + 1] = keys_of_ids[i]
        writes[written + 2] = pack_header(h) .. body
      else
        redis.call('SET', keys_of_ids[i], pack_header(h) .. body)
      end
      if routing.group then redis.call('RPUSH', ctx.prefix .. 'group:' .. routing.group, id) end
      local field = WAITING[rank]
      ctx.count[field] = ctx.count[field] + 1
      total = total + 1
      existing[id] = true
      words[i] = 'ok'
    end
  end
  local started = take(ctx, { slots = parse_slots(args[3]), any = args[4] == '1', max_wait_ms = tonumber(args[5]) })
  retire(ctx)
  close(ctx)
  return { 'ok', words, started }
end
