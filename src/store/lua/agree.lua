--[[
agree: whether a task stands where its record says, for whoever looks (`inspect`, `survey`) or mends (`repair`).

A record and what stands elsewhere for it change in one call, so between two calls they agree, or somebody wrote past the
functions. Nothing here writes.
]]
local sight, disagreement, entry_disagreement, pending_disagreement, timer_disagreement, miscounted_tasks
do
  -- As much of a record as the header and the names that its keys are made of can take.
  local SIGHT_BYTES = 1024
  -- With more dependencies than this only their number is looked at.
  local TIES_MAX = 64
  local STATE_NAMES = { [PENDING] = 'PENDING', [RUNNING] = 'RUNNING', [COMPLETED] = 'COMPLETED', [FAILED] = 'FAILED',
    [TIMEOUT] = 'TIMEOUT', [CANCELLED] = 'CANCELLED' }

  -- The header of a task, and its queue, name and group; nil without a record.
  sight = function(ctx, id)
    local raw = load_front(ctx, id, SIGHT_BYTES)
    local h = read_header(raw)
    if not h then return nil end
    local queue, name, group = string.match(raw, '^([^\n]*)\n([^\n ]*)[^\n]*\n([^\n]*)\n', HEADER_BYTES + 1)
    if not queue then return nil end
    return h, queue, name, group
  end

  -- The stream in which a task has its entry.
  local function stream_at(ctx, h, queue, name)
    if h[PLACE] == PARKED then return park_stream(ctx, AGENT.park(h, name), h[RANK]) end
    if h[PLACE] == AGENT.PLACE then return AGENT.stream(ctx, queue, h[RANK]) end
    return queue_stream(ctx, queue, h[RANK])
  end

  -- What is asked once a call: whether a name is listed, and how far a group was given its stream.
  local function once(ctx, kind, key, ask)
    ctx.asked = ctx.asked or {}
    local known = ctx.asked[kind .. key]
    if known == nil then
      known = ask()
      ctx.asked[kind .. key] = known
    end
    return known
  end

  local function is_listed(ctx, set, name)
    return once(ctx, set, name, function() return redis.call('SISMEMBER', ctx.prefix .. set, name) == 1 end)
  end

  -- The numbers of the last entry that the group was given; false where there is no group.
  local function delivered(ctx, stream)
    return once(ctx, 'delivered', stream, function()
      local groups = redis.pcall('XINFO', 'GROUPS', stream)
      if groups.err then return false end
      for _, group in ipairs(groups) do
        local fields = {}
        for i = 1, #group, 2 do fields[group[i]] = group[i + 1] end
        if fields['name'] == GROUP then return { entry_numbers(fields['last-delivered-id']) } end
      end
      return false
    end)
  end

  -- Who holds an entry; nil when nobody does.
  local function holder(stream, entry)
    local found = redis.pcall('XPENDING', stream, GROUP, entry, entry, 1)
    if found.err then return nil end
    return found[1] and found[1][2]
  end

  local function has_entry(stream, entry, id)
    local found = STREAM.range(stream, entry, entry, 1)[1]
    return found and found[2] and found[2][2] == id
  end

  -- Under which name the entry of a running task is pending: its replica's, or its agent's.
  local function owner_of(ctx, id, h)
    return h[OWNER] == AGENT.OWNER and AGENT.worker(ctx, id, h) or h[OWNER]
  end

  local function has_timer(ctx, id)
    return redis.call('ZSCORE', ctx.prefix .. 'timers', id) or redis.call('ZSCORE', ctx.prefix .. 'shifting', id)
  end

  local function waiting_disagreement(ctx, id, h, queue, name)
    local stream, entry = stream_at(ctx, h, queue, name), entry_id(ctx, h)
    if not has_entry(stream, entry, id) then return 'no_entry', stream end
    local set, member = 'queues', queue
    if h[PLACE] == PARKED then set, member = 'parks', AGENT.park(h, name) end
    if h[PLACE] == AGENT.PLACE then set = 'desks' end
    if not is_listed(ctx, set, member) then return 'unlisted', set .. ' ' .. member end
    local last = delivered(ctx, stream)
    if not last then return 'no_group', stream end
    local consumer = holder(stream, entry)
    if consumer then return 'held', consumer end
    if h[ENTRY_MS] < last[1] or (h[ENTRY_MS] == last[1] and h[ENTRY_SEQ] <= last[2]) then return 'passed', stream end
  end

  -- A task waits for no other one that has ended already, unless telling it is still to be done.
  local function blocked_disagreement(ctx, id, h)
    local key = dependencies_key(ctx, id)
    local left = tonumber(redis.call('HGET', key, 'left') or nil)
    if not left or left <= 0 then
      if redis.call('HEXISTS', key, 'failed') == 1 then return nil end
      return 'unblocked', ''
    end
    if ctx.count.backlog > 0 or redis.call('HLEN', key) > TIES_MAX then return nil end
    local fields, open = redis.call('HGETALL', key), 0
    for i = 1, #fields, 2 do
      if not OWN_FIELDS[fields[i]] and string.byte(fields[i + 1]) == 49 then
        open = open + 1
        local state = string.byte(load_front(ctx, fields[i], 1))
        local is_over = state and state ~= PENDING and state ~= RUNNING
        if is_over and not (state ~= COMPLETED and has(h, WAITS_ANYWAY)) then return 'released_late', fields[i] end
      end
    end
    if open ~= left then return 'miscounted', string.format('%d', open) end
  end

  -- What is wrong about where a task is: a word and a detail; nil when all is well.
  disagreement = function(ctx, id, h, queue, name)
    if h[STATE] == PENDING then
      if h[PLACE] == QUEUED or h[PLACE] == PARKED or h[PLACE] == AGENT.PLACE then return waiting_disagreement(ctx, id, h, queue, name) end
      if h[PLACE] == DELAYED then
        if has_timer(ctx, id) then return nil end
        return 'no_timer', ''
      end
      if h[PLACE] == BLOCKED then return blocked_disagreement(ctx, id, h) end
      return nil
    end
    if h[STATE] == RUNNING then
      local stream, entry = stream_at(ctx, h, queue, name), entry_id(ctx, h)
      local consumer = holder(stream, entry)
      if not consumer then return 'unheld', stream end
      if not has_entry(stream, entry, id) then return 'no_entry', stream end
      if consumer ~= owner_of(ctx, id, h) then return 'other_holder', consumer end
      if h[OWNER] == AGENT.OWNER and not has_timer(ctx, id) then return 'no_timer', '' end
      if not LIMIT.counts(ctx, name, id) then return 'uncounted', name end
    end
  end

  -- What is wrong about an entry of a task stream: a word and a detail; nil when a task waits or runs there.
  entry_disagreement = function(ctx, stream, entry, id)
    if not id then return 'unknown', '' end
    local h, queue, name = sight(ctx, id)
    if not h then return 'unknown', '' end
    local ms, seq = entry_numbers(entry)
    if h[STATE] ~= PENDING and h[STATE] ~= RUNNING then return 'stale', STATE_NAMES[h[STATE]] or '' end
    local is_elsewhere = h[ENTRY_MS] ~= ms or h[ENTRY_SEQ] ~= seq or h[PLACE] == DELAYED or h[PLACE] == BLOCKED
      or h[PLACE] == STAGED or stream_at(ctx, h, queue, name) ~= stream
    if is_elsewhere then return 'stale', 'elsewhere' end
  end

  -- The same about an entry that a consumer holds.
  pending_disagreement = function(ctx, stream, entry, consumer)
    local found = STREAM.range(stream, entry, entry, 1)[1]
    local id = found and found[2] and found[2][2]
    if not id then return 'no_entry', '', '' end
    local word, detail = entry_disagreement(ctx, stream, entry, id)
    if word then return word, detail, id end
    local h = sight(ctx, id)
    if h[STATE] ~= RUNNING then return 'not_running', STATE_NAMES[h[STATE]], id end
    local owner = owner_of(ctx, id, h)
    if consumer ~= owner then return 'other_owner', owner, id end
  end

  -- The tasks that count as running of a name with a limit and do not run: { id, state } each. `at` is the name's place in
  -- the order of all; answers whether there is such a name, too.
  miscounted_tasks = function(ctx, at)
    local name, found = LIMIT.names(ctx)[at], {}
    if not name then return found, 0, nil end
    local members = LIMIT.members(ctx, name)
    for _, id in ipairs(members) do
      local h, _, known = sight(ctx, id)
      if not h then
        found[#found + 1] = { id, 'unknown', name }
      elseif h[STATE] ~= RUNNING or known ~= name then
        found[#found + 1] = { id, STATE_NAMES[h[STATE]] or '', name }
      end
    end
    return found, #members, name
  end

  -- The same about a timer.
  timer_disagreement = function(ctx, id)
    local h = sight(ctx, id)
    if not h then return 'unknown', '' end
    if h[STATE] == RUNNING and h[OWNER] == AGENT.OWNER then return nil end
    if h[STATE] ~= PENDING or h[PLACE] ~= DELAYED then return 'stale', STATE_NAMES[h[STATE]] or '' end
  end
end
