--[[
stage: makes a workflow or a saga, whole or not at all, however large: its tasks are written in chunks that nobody sees,
and the last chunk makes the group known. Its tasks are told of from then on, in chunks again (see follow.lua).

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 who asks (see create)  3 free slots ("0,3")  4 runs any task ('1' or '0')  5 max_wait_ms
        6 group id  7 kind (workflow or saga)  8 identity (what asked for it)  9 first ('1' or '0')  10 last ('1' or '0')
        11 head ("name JSON \n policy \n priority \n correlation_id \n cause \n trace"), of the group's own events
        12 names of all its tasks, comma-separated; checked with the first chunk  13 queues, likewise
        14 steps of a saga: field and value in turn for `s:<saga>`, as a flat list of netstrings; of a workflow the keys of all
        its tasks, comma-separated; with the first chunk
        then four for each task: id, routing ("queue rank max_retries flags start key total", with "@agent" behind the flags where the caller named one, then of the `total` tasks it
        depends on those that fit, as id and input name, each with a leading space), members of the created event that are not
        in the record, body; or more that a task of a chunk before depends on: id, '+' and those, '', ''
Returns { 'ok', word, started }: ok (known now), more (the chunk is kept), duplicate (this very request made it before),
        taken (another did), key (with the first of its keys, behind a space, that a task has which carried its id before), unknown (with the name behind a space), full, memory (Redis is short of it), queues; or { 'schema', found }.
        O(tasks + dependencies of the chunk).
]]
local STAGE_ARGS = 4

-- Whether all of a group's task names are known; else the first that is not.
local function unknown_name(ctx, names)
  for name in string.gmatch(names, '[^,]+') do
    if not is_registered(ctx, name) then return name end
  end
  return nil
end

-- Writes what a task depends on, and gathers in `children` who depends on each.
local function stage_edges(ctx, id, depends_on, hash, names, children)
  for parent, name in string.gmatch(depends_on, ' (%S+) (%S+)') do
    hash[#hash + 1] = parent
    hash[#hash + 1] = '1' .. name
    local list = children[parent]
    if not list then
      list = { 'RPUSH', dependents_key(ctx, parent) }
      children[parent] = list
      names[#names + 1] = parent
    end
    list[#list + 1] = id
  end
  for first = 3, #hash, CHUNK do
    redis.call('HSET', hash[2], unpack(hash, first, math.min(first + CHUNK - 1, #hash)))
  end
end

-- Writes the tasks of a chunk that are not written yet, as nobody sees them.
local function stage_tasks(ctx, group, args, first_arg)
  local ids, fresh, keys_list, names, children = {}, {}, {}, {}, {}
  for at = first_arg, #args, STAGE_ARGS do ids[#ids + 1] = args[at] end
  local records = load_records(task_keys(ctx, ids))
  for i, id in ipairs(ids) do
    local at = first_arg + (i - 1) * STAGE_ARGS
    local routing, members, body = args[at + 1], args[at + 2], args[at + 3]
    if string.byte(routing) == 43 then
      local key, parent = dependencies_key(ctx, id), string.match(routing, '^%+ (%S+) ')
      -- A chunk is written whole: where its first is known, everything of it is.
      if redis.call('HEXISTS', key, parent) == 0 then
        stage_edges(ctx, id, string.sub(routing, 2), { 'HSET', key }, names, children)
      end
    elseif not records[i] then
      local queue, rank, max_retries, flags, start, key, total, depends_on =
        string.match(routing, '^(%S+) (%d) (%d+) (%d+)@?%S* (%S+) (%S+) (%d+)(.*)$')
      ensure_queue(ctx, queue)
      local h = { PENDING, STAGED, tonumber(rank), 0, tonumber(flags), 0, 0, tonumber(max_retries), 0, 0, 0, NOBODY, 0,
        ctx.now, 0, 0, #body }
      local wanted = string.match(routing, '^%S+ %d %d+ %d+@(%S+)')
      if wanted or ctx.count.agent_names > 0 then
        local agent = AGENT.route(ctx, string.match(body, '^[^\n]*\n([^\n]*)'), wanted)
        if agent then body, members = AGENT.assign(h, body, members, agent) end
      end
      if total ~= '0' then set_flag(h, FEW.of(tonumber(total))) end
      local writes = ctx.writes
      writes[#writes + 1] = task_key(ctx, id)
      writes[#writes + 1] = pack_header(h) .. body .. start .. '\n' .. members
      fresh[#fresh + 1] = id
      keys_list[#keys_list + 1] = key
      keys_list[#keys_list + 1] = id
      if total ~= '0' then
        stage_edges(ctx, id, depends_on, { 'HSET', dependencies_key(ctx, id), 'left', total, 'start', start }, names, children)
      end
    end
  end
  for _, parent in ipairs(names) do redis.call(unpack(children[parent])) end
  if #fresh == 0 then return end
  redis.call('RPUSH', ctx.prefix .. 'group:' .. group.id, unpack(fresh))
  redis.call('HSET', ctx.prefix .. 'keys:' .. group.id, unpack(keys_list))
  group.total = group.total + #fresh
  group.left = group.left + #fresh
  ctx.count.opening = ctx.count.opening + #fresh
end

-- Field and value in turn, written as netstrings.
local function store_netstrings(key, text)
  local values, at = {}, 1
  while at <= #text do
    local colon = string.find(text, ':', at, true)
    local length = tonumber(string.sub(text, at, colon - 1))
    values[#values + 1] = string.sub(text, colon + 1, colon + length)
    at = colon + length + 2
  end
  for first = 1, #values, CHUNK do
    redis.call('HSET', key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

-- The first of a list of keys that a task has which carried the workflow's id before. What would join later waits until it is
-- known what becomes of the workflow.
local function taken_key(ctx, id, list)
  local keys = {}
  for key in string.gmatch(list, '[^,]+') do keys[#keys + 1] = key end
  for first = 1, #keys, CHUNK do
    local last = math.min(first + CHUNK - 1, #keys)
    for i, task in ipairs(redis.call('HMGET', ctx.prefix .. 'keys:' .. id, unpack(keys, first, last))) do
      if task then return keys[first + i - 1] end
    end
  end
  return nil
end

-- Begins a group; answers a word when there is nothing to begin.
local function begin_group(ctx, args)
  local id, identity = args[6], args[8]
  local group = load_group(ctx, id)
  if group then
    if group.identity ~= identity then return nil, 'taken' end
    if group.state ~= 'S' then return nil, 'duplicate' end
    -- Given up, and about to be swept: what comes after that begins anew.
    local since = redis.call('ZSCORE', ctx.prefix .. 'staging', id)
    if since and ctx.now - since >= STAGED_MS then return nil, 'full' end
    return group
  end
  if args[9] ~= '1' then return nil, 'again' end
  local unknown = args[2] ~= 'any' and unknown_name(ctx, args[12])
  if unknown then return nil, 'unknown ' .. unknown end
  local first = redis.call('LLEN', ctx.prefix .. 'group:' .. id)
  local taken = args[7] == 'workflow' and first > 0 and taken_key(ctx, id, args[14])
  if taken then return nil, 'key ' .. taken end
  local places = redis.call('SCARD', ctx.prefix .. 'queues')
  for queue in string.gmatch(args[13], '[^,]+') do
    if redis.call('SISMEMBER', ctx.prefix .. 'queues', queue) == 0 then places = places + 1 end
  end
  if places > QUEUES_MAX then return nil, 'queues' end
  local from_stream = args[2] == 'stream' or args[2] == 'turn'
  local is_short = is_memory_short(ctx)
  if is_short or not has_room(ctx) then
    if from_stream then redis.call('HSET', ctx.meta, 'waiting_ms', string.format('%d', ctx.now + WAITING_MS)) end
    return nil, is_short and 'memory' or 'full'
  end
  if must_wait_for_older(ctx, args[2]) then return nil, 'full' end
  local name, policy, priority, correlation, cause, trace =
    string.match(args[11], '^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
  group = { id = id, before = {}, kind = args[7], state = 'S', identity = identity, name = name, policy = policy, priority = priority,
    correlation = correlation, cause = cause, trace = trace, seq = 0, total = 0, left = 0, completed = 0, failed = 0,
    timeout = 0, cancelled = 0, created_ms = ctx.now, finished_ms = 0, root = '', stop = '', abort = '', passed = '',
    failed_step = '', first = first }
  for field, value in pairs(group) do
    if field ~= 'id' and field ~= 'before' then group.before[field] = false end
  end
  ctx.groups[id] = group
  redis.call('ZADD', ctx.prefix .. 'staging', ctx.now, id)
  return group
end

local function stage(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local group, word = begin_group(ctx, args)
  if group then
    if group.kind == 'saga' and args[14] ~= '' then store_netstrings(ctx.prefix .. 's:' .. group.id, args[14]) end
    stage_tasks(ctx, group, args, 15)
    word = 'more'
    if args[10] == '1' then
      word = 'ok'
      flush(ctx)
      group.created_ms = ctx.now
      redis.call('ZREM', ctx.prefix .. 'staging', group.id)
      if group.kind == 'saga' then
        group.state = 'P'
        SAGA.told(ctx, group)
      else
        group.state = 'R'
        emit_group(ctx, group, 'orchestration.workflow.started', string.format(
          '"total_tasks":%d,"counts":%s,"root_cause_task_id":null,"duration_ms":null', group.total, state_counts(group)),
          group.cause)
        if group.first > 0 then
          group.left = group.left + 1
          add_work(ctx, 'j ' .. group.id .. ' 0')
        end
      end
      add_work(ctx, string.format('o %s %d', group.id, group.first))
      follow(ctx, FOLLOW_BUDGET)
    end
  end
  local started = take(ctx, { slots = parse_slots(args[3]), any = args[4] == '1', max_wait_ms = tonumber(args[5]) })
  retire(ctx)
  close(ctx)
  return { 'ok', word, started }
end

register('stage', stage, ADDS)
