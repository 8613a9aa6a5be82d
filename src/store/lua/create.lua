--[[
create: makes tasks out of checked triggers, and hands out work for the caller's free slots in the same call.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 who asks: any (the name needs no handler), named (it does), stream (it does, and triggers of
        other replicas may wait), turn (as stream, and the caller holds the oldest trigger that waits)  3 free slots ("0,3")  4 runs any task ('1' or '0')  5 max_wait_ms
        then five for each task: id, routing ("name queue rank max_retries start group", with "@agent" behind the name where the caller named one, where start is '-', '+delay_ms'
        or due ms and group '-' or the workflow's id; behind it, where the task has any of them, " key ids...": the caller's
        own name or '-', and keys or ids of what it depends on), origin (cause, or "cause \n correlation_id \n trace"),
        payload (of the created event, JSON without its last members and brace), body (see record.lua)
Returns { 'ok', { word, ... }, started } with a word for each task in order: ok, duplicate (exists; nothing changed),
        unknown (no replica has registered the name within the last hour), full (this and all after it must wait),
        queues (there are as many queues as there may be, and this would be one more), unresolved (it depends on something
        not known; with the name behind a space), key (its key is another's), ended (its workflow has ended),
        memory (Redis is short of it; this and all after it must wait);
        or { 'schema', found }. O(tasks).
]]
local CREATE_ARGS = 5
-- Whether tasks may wait in a queue: it is known, or there is room for one more.
local function has_place(ctx, queue)
  local registry = ctx.prefix .. 'queues'
  return redis.call('SISMEMBER', registry, queue) == 1 or redis.call('SCARD', registry) < QUEUES_MAX
end

-- What a routing says; most tasks of a batch share one.
local function parse_routing(text)
  local name, agent, queue, rank, max_retries, start, group, rest =
    string.match(text, '^([^%s@]+)@?(%S*) (%S+) (%d) (%d+) (%S+) (%S+) ?(.*)$')
  local routing = {
    name = name, queue = queue, rank = tonumber(rank), max_retries = tonumber(max_retries), start = start,
    group = group ~= '-' and group or nil, wanted = agent ~= '' and agent or nil,
  }
  if rest ~= '' then
    local key, depends_on = string.match(rest, '^(%S+) ?(.*)$')
    routing.key = key ~= '-' and key or nil
    routing.depends_on = {}
    for name_or_id in string.gmatch(depends_on, '%S+') do
      routing.depends_on[#routing.depends_on + 1] = name_or_id
    end
  end
  return routing
end

-- Finds what a task depends on: a list of { id, name, h, raw }, or nil and the name that is not known.
local function resolve(ctx, routing)
  local names, group = routing.depends_on, routing.group or ''
  local found, keys = {}, group ~= '' and ctx.prefix .. 'keys:' .. group
  flush(ctx)
  for first = 1, #names, CHUNK do
    local last = math.min(first + CHUNK - 1, #names)
    local ids = keys and redis.call('HMGET', keys, unpack(names, first, last)) or {}
    for i = first, last do
      -- What names none may be an id; what is none of these either names nothing.
      local name = names[i]
      ids[i - first + 1] = ids[i - first + 1] or (#name == 36 and name or '')
    end
    for i, raw in ipairs(load_records(task_keys(ctx, ids))) do
      local h, name = read_header(raw), names[first + i - 1]
      if not h then return nil, name end
      local _, _, _, _, its_group = read_body(raw)
      if its_group ~= group or has(h, IS_STEP) or has(h, IS_COMPENSATION) then return nil, name end
      found[#found + 1] = { id = ids[i], name = name, h = h, raw = raw }
    end
  end
  return found
end

-- Writes down what a new task depends on. Answers whom it waits for, as JSON strings, and the root of a failure that
-- came before it.
local function depend(ctx, id, h, routing, parents)
  local hash, blocked, failed, left = { 'HSET', dependencies_key(ctx, id) }, {}, nil, 0
  for _, parent in ipairs(parents) do
    local state = parent.h[STATE]
    local letter = '0'
    if state == PENDING or state == RUNNING or (state ~= COMPLETED and has(h, WAITS_ANYWAY)) then
      letter = '1'
      left = left + 1
      blocked[#blocked + 1] = '"' .. parent.id .. '"'
      redis.call('RPUSH', dependents_key(ctx, parent.id), id)
      if not has(parent.h, HAS_DEPENDENTS) then
        redis.call('SETRANGE', task_key(ctx, parent.id), FLAGS_AT,
          struct.pack(FLAGS_FORM, bit.bor(parent.h[FLAGS], HAS_DEPENDENTS)))
      end
    elseif state ~= COMPLETED and not has(h, RUNS_ANYWAY) then
      failed = failed or root_of(parent.raw, parent.h) or parent.id
    end
    hash[#hash + 1] = parent.id
    hash[#hash + 1] = letter .. parent.name
  end
  for first = 3, #hash, CHUNK do
    redis.call('HSET', hash[2], unpack(hash, first, math.min(first + CHUNK - 1, #hash)))
  end
  redis.call('HSET', hash[2], 'left', left, 'start', routing.start)
  set_flag(h, HAS_DEPENDENCIES)
  set_flag(h, FEW.of(#parents))
  return table.concat(blocked, ','), failed
end

-- The last members of a created event, most of which are the same within a call.
local function created_members(ctx, blocked, due)
  if blocked == '' and not due and ctx.created_members then return ctx.created_members end
  local members = string.format(',"blocked_by":[%s],"run_at":%s,"created_at":"%s"}', blocked,
    due and '"' .. iso(due) .. '"' or 'null', ctx.iso)
  if blocked == '' and not due then ctx.created_members = members end
  return members
end

local function create(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local strict, from_stream = args[2] ~= 'any', args[2] == 'stream' or args[2] == 'turn'
  local must_wait = must_wait_for_older(ctx, args[2])
  local total = total_tasks(ctx)
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
  local is_short = is_memory_short(ctx)
  if from_stream and (is_short or not fits) then
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
      -- Who takes tasks by hand carries them out, whatever agent they name.
      routing.agent = AGENT.route(ctx, routing.name, strict and routing.wanted or nil)
      if strict and known[routing.name] == nil then known[routing.name] = is_registered(ctx, routing.name) end
    end
    if must_wait then
      words[i] = 'full'
    elseif existing[id] then
      words[i] = 'duplicate'
    elseif strict and not known[routing.name] and not routing.agent then
      words[i] = 'unknown'
    elseif not routing.has_place then
      words[i] = 'queues'
    elseif is_short then
      for rest = i, count do words[rest] = 'memory' end
      break
    elseif ctx.max_size > 0 and total >= ctx.max_size then
      for rest = i, count do words[rest] = 'full' end
      break
    else
      local group = routing.group and load_group(ctx, routing.group)
      local parents, unknown, refused
      if group and (group.state ~= 'R' or group.stop ~= '' or group.kind ~= 'workflow') then
        refused = group.state == 'S' and 'unresolved ' .. routing.group or 'ended'
      elseif routing.depends_on and #routing.depends_on > 0 then
        parents, unknown = resolve(ctx, routing)
        if not parents then refused = 'unresolved ' .. unknown end
      end
      if not refused and routing.key and routing.group
        and redis.call('HSETNX', ctx.prefix .. 'keys:' .. routing.group, routing.key, id) == 0 then
        refused = 'key'
      end
      if refused then
        words[i] = refused
      else
      local rank = routing.rank
      local h = { PENDING, QUEUED, rank, 0, 0, 0, 0, routing.max_retries, 1, 0, 0, NOBODY, 0, ctx.now, 0, 0, #body }
      if group then
        h[FLAGS] = IN_GROUP + (group.policy == 'run' and RUNS_ANYWAY or group.policy == 'wait' and WAITS_ANYWAY or 0)
        group.total = group.total + 1
        group.left = group.left + 1
      end
      if routing.agent then body, payload = AGENT.assign(h, body, payload, routing.agent) end
      local blocked, failed = '', nil
      if parents then blocked, failed = depend(ctx, id, h, routing, parents) end
      local due = due_of(routing.start, ctx.now)
      if failed or blocked ~= '' then
        h[PLACE] = BLOCKED
        aside(ctx, routing.queue, rank, 1)
      else
        place(ctx, id, h, routing.queue, due)
      end
      local cause, correlation, trace = origin, origin, nil
      if string.find(origin, '\n', 1, true) then
        cause, correlation, trace = string.match(origin, '^([^\n]*)\n([^\n]*)\n(.*)$')
      end
      emit(ctx, 'orchestration.task.created', id, 1, correlation, cause,
        payload .. created_members(ctx, blocked, due), trace)
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
      if failed then
        cancel_task(ctx, id, pack_header(h) .. body, h, 'dependency_failed', id .. '/1', '', failed)
      end
      end
    end
  end
  follow(ctx, FOLLOW_BUDGET)
  local started = take(ctx, { slots = parse_slots(args[3]), any = args[4] == '1', max_wait_ms = tonumber(args[5]) })
  retire(ctx)
  close(ctx)
  return { 'ok', words, started }
end

register('create', create, ADDS)
