--[[
repair: mends what does not agree, a bounded part of it a call. Looks again before each change, so what was seen before may be
old news, and twice does no harm.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 what, then by what:
        entries or pending   3 stream behind the prefix  4 cursor  5 limit: entries that no task stands in leave; one that
                             another holds than its task says goes to the owner
        limits               3 cursor  4 limit: tasks that count as running of a name with a limit and do not run leave
        timers or letters    3 cursor  4 limit: timers of no delayed task and dead letters without a copy leave
        tasks                3... task ids: a task that waits and stands nowhere goes to the tail of its priority, a delayed one
                             becomes due, and one that runs for a replica that nobody knows is lost, as in a takeover
        queues               makes the groups of all listed queues where they are missing
        counters             3 mends (how often the counters were mended before the caller looked)  4... name, difference; "groups workflow" and
                             "groups saga" are those under way
        members              3... ids: what is left of replicas that do not beat and hold nothing goes
        told                 3 actor (JSON)  4 what was done (JSON): says it on the log
Returns { 'ok', how many were mended, next cursor ('' at the end) } | { 'again' } (the counters were mended since) |
        { 'schema', found }. O(limit), O(ids), O(ids * streams) for members.
]]
local function drop_entries(ctx, stream, ids)
  for first = 1, #ids, CHUNK do
    local last = math.min(first + CHUNK - 1, #ids)
    -- There may be no group.
    redis.pcall('XACK', stream, GROUP, unpack(ids, first, last))
    STREAM.call('XDEL', stream, unpack(ids, first, last))
  end
end

local function repair_entries(ctx, name, cursor, limit)
  local stream, gone = ctx.prefix .. name, {}
  local found = STREAM.range(stream, cursor == '' and '-' or '(' .. cursor, '+', limit)
  for _, entry in ipairs(found) do
    if entry_disagreement(ctx, stream, entry[1], entry[2] and entry[2][2]) then gone[#gone + 1] = entry[1] end
  end
  drop_entries(ctx, stream, gone)
  return #gone, #found == limit and found[#found][1] or ''
end

local function repair_pending(ctx, name, cursor, limit)
  local stream, gone, mended = ctx.prefix .. name, {}, 0
  local found = redis.pcall('XPENDING', stream, GROUP, cursor == '' and '-' or '(' .. cursor, '+', limit)
  if found.err then found = {} end
  for _, entry in ipairs(found) do
    local word, owner = pending_disagreement(ctx, stream, entry[1], entry[2])
    if word == 'other_owner' then
      redis.call('XCLAIM', stream, GROUP, owner, 0, entry[1], 'JUSTID')
      mended = mended + 1
    elseif word == 'not_running' then
      -- Its task waits and nobody would be given the entry any more; as a task without an entry it is queued anew.
      gone[#gone + 1] = entry[1]
    elseif word then
      gone[#gone + 1] = entry[1]
    end
  end
  drop_entries(ctx, stream, gone)
  return mended + #gone, #found == limit and found[#found][1] or ''
end

local function repair_set(ctx, what, cursor, limit)
  local set, gone = ctx.prefix .. (what == 'timers' and 'timers' or 'dead'), {}
  local reply = redis.call('ZSCAN', set, cursor == '' and '0' or cursor, 'COUNT', limit)
  for i = 1, #reply[2], 2 do
    local member = reply[2][i]
    local is_wrong
    if what == 'timers' then
      is_wrong = timer_disagreement(ctx, member)
    else
      is_wrong = redis.call('EXISTS', set .. ':' .. member) == 0
    end
    if is_wrong then
      gone[#gone + 1] = member
      -- Nobody can show or requeue it any more, and the log must not go on saying that it is kept.
      if what == 'letters' then emit_operator(ctx, 'discard', cjson.encode(member), '"doctor"', '"copy_missing"') end
    end
  end
  for first = 1, #gone, CHUNK do
    redis.call('ZREM', set, unpack(gone, first, math.min(first + CHUNK - 1, #gone)))
  end
  return #gone, reply[1] ~= '0' and reply[1] or ''
end

local function repair_limits(ctx, cursor)
  local at = cursor == '' and 1 or tonumber(cursor)
  local found, _, name = miscounted_tasks(ctx, at)
  for _, one in ipairs(found) do LIMIT.leave(ctx, one[3], one[1]) end
  return #found, name and digits(at + 1) or ''
end

-- Puts one task back to where it can go on; answers whether it was put anywhere.
local function repair_task(ctx, id)
  local h, queue, name = sight(ctx, id)
  local word = h and disagreement(ctx, id, h, queue, name)
  if not word then return false end
  local key = task_key(ctx, id)
  local raw = redis.call('GET', key)
  local stream = stream_of(ctx, h, queue, '"task_name":"' .. name .. '"')
  if h[STATE] == RUNNING then
    if word == 'other_holder' then return false end
    if word == 'no_timer' then
      CLOCK.set_timer(ctx, id, ctx.now)
      return true
    end
    if word == 'uncounted' then
      LIMIT.enter(ctx, name, id)
      return true
    end
    -- Who lives ends its attempt by itself.
    if redis.call('HEXISTS', ctx.prefix .. 'beats', h[OWNER]) == 1 then return false end
    drop_entries(ctx, stream, { entry_id(ctx, h) })
    local who = h[OWNER] == AGENT.OWNER and AGENT.worker(ctx, id, h) or 'replica ' .. h[OWNER]
    if h[OWNER] == AGENT.OWNER then AGENT.part(ctx, id, h) end
    local problem = '{"type":"lost","message":"' .. who .. ' is gone, and the entry of the task with it"}'
    fail_attempt(ctx, id, key, raw, h, { read_body(raw) }, 'failed', 0, problem, 'lost')
    return true
  end
  if h[PLACE] == DELAYED then
    CLOCK.set_timer(ctx, id, ctx.now)
    return true
  end
  if h[PLACE] == BLOCKED then
    if word ~= 'unblocked' then return false end
  elseif word == 'unlisted' or word == 'no_group' then
    if h[PLACE] == PARKED then redis.call('SADD', ctx.prefix .. 'parks', AGENT.park(h, name)) end
    for rank = 0, 3 do
      make_group(h[PLACE] == PARKED and park_stream(ctx, AGENT.park(h, name), rank) or queue_stream(ctx, queue, rank))
    end
    if h[PLACE] == QUEUED then ensure_queue(ctx, queue) end
    if h[PLACE] == AGENT.PLACE then
      redis.call('SADD', ctx.prefix .. 'desks', queue)
      for rank = 0, 3 do make_group(AGENT.stream(ctx, queue, rank)) end
    end
    return true
  else
    -- What is left of its entry, held or passed over, goes: the new one is the one.
    if STREAM.call('XDEL', stream, entry_id(ctx, h)) == 1 and h[PLACE] == PARKED then
      -- It counted as parked, and will not.
      ctx.count.parked = math.max(0, ctx.count.parked - 1)
    end
    redis.pcall('XACK', stream, GROUP, entry_id(ctx, h))
    if h[PLACE] == AGENT.PLACE then
      ctx.count.handing = ctx.count.handing - 1
      aside(ctx, queue, h[RANK], -1)
    end
  end
  enqueue(ctx, id, h, queue)
  save(ctx, key, raw, h)
  return true
end

local function repair_members(ctx, args)
  local mended = 0
  for at = 3, #args do
    local id = args[at]
    if redis.call('HEXISTS', ctx.prefix .. 'beats', id) == 0 and forget_replica(ctx, id) then mended = mended + 1 end
  end
  return mended
end

-- A difference is the same whatever happens meanwhile; applying it twice is what must not be.
local function repair_counters(ctx, args)
  local mends = redis.call('HGET', ctx.meta, 'mends') or '0'
  if mends ~= args[3] then return nil end
  local mended = 0
  for at = 4, #args, 2 do
    local name = args[at]
    local kind = string.match(name, '^groups (%a+)$')
    if kind then
      local key = ctx.prefix .. 'groups'
      local count = (tonumber(redis.call('HGET', key, kind) or nil) or 0) + tonumber(args[at + 1])
      redis.call('HSET', key, kind, string.format('%d', math.max(0, count)))
      mended = mended + 1
    elseif ctx.count[name] and name ~= 'entry_ms' and name ~= 'entry_seq' then
      ctx.count[name] = math.max(0, ctx.count[name] + tonumber(args[at + 1]))
      mended = mended + 1
    end
  end
  redis.call('HINCRBY', ctx.meta, 'mends', 1)
  return mended
end

local function repair(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local what, mended, next_cursor = args[2], 0, ''
  if what == 'entries' then
    mended, next_cursor = repair_entries(ctx, args[3], args[4], tonumber(args[5]))
  elseif what == 'pending' then
    mended, next_cursor = repair_pending(ctx, args[3], args[4], tonumber(args[5]))
  elseif what == 'limits' then
    mended, next_cursor = repair_limits(ctx, args[3])
  elseif what == 'timers' or what == 'letters' then
    mended, next_cursor = repair_set(ctx, what, args[3], tonumber(args[4]))
  elseif what == 'tasks' then
    for at = 3, #args do
      if repair_task(ctx, args[at]) then mended = mended + 1 end
    end
    follow(ctx, FOLLOW_BUDGET)
    AGENT.hand_over(ctx)
    retire(ctx)
    count_rate(ctx)
    if mended > 0 then ring(ctx, 'work', '') end
  elseif what == 'queues' then
    for _, name in ipairs(queue_names(ctx)) do
      for rank = 0, 3 do
        if not redis.pcall('XGROUP', 'CREATE', queue_stream(ctx, name, rank), GROUP, '0', 'MKSTREAM').err then mended = mended + 1 end
      end
    end
  elseif what == 'members' then
    mended = repair_members(ctx, args)
  elseif what == 'counters' then
    mended = repair_counters(ctx, args)
    if not mended then return { 'again' } end
  elseif what == 'told' then
    emit_operator(ctx, 'repair', args[4], args[3], '"doctor"')
  end
  close(ctx)
  return { 'ok', mended, next_cursor }
end

register('repair', repair, DRAINS)
