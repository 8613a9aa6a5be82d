--[[
take: gives waiting tasks to free slots; the common end of every function that can hand out work.

Strict priority, first in first out within one, with one exception: while a lower priority's oldest entry has waited
longer than `max_wait_ms`, every eighth task served is the oldest such entry. Tasks are marked RUNNING only here, one
for one with a free slot of the caller, and never one of a paused queue. What is for agents needs no slot: whoever calls hands it
over, in the same order and under the same limits (see agent.lua).
]]
-- A library may have 200 locals at its outermost level; what only this part knows does not count there.
local parse_slots, undelivered_since, take
do
local RESCUE_EVERY = 8
-- How long a task waits that may not run beside what its replica runs, before somebody looks again.
local RISKY_PAUSE_MS = 1000
-- How often a call looks at a stream, for each task that it may hand out and beside that, so that its work stays bounded
-- where it may not start what stands in front.
local LOOKS_EACH, LOOKS_BESIDE = 4, 64
-- How many tasks one call hands over to agents at most.
local HAND_BATCH = 100

-- Slots from text such as "0,1,5".
parse_slots = function(text)
  local slots = {}
  for slot in string.gmatch(text, '%d+') do slots[#slots + 1] = tonumber(slot) end
  return slots
end

-- The queues that nothing is handed out of; asked for once a call, and only when the partition's hash tells of one.
local function paused_queues(ctx)
  if not ctx.paused then
    ctx.paused = {}
    if ctx.count.paused > 0 then
      for _, name in ipairs(redis.call('HKEYS', ctx.prefix .. 'paused')) do ctx.paused[name] = true end
    end
  end
  return ctx.paused
end

-- The queues that tasks are handed out of, in a stable order.
local function open_queues(ctx)
  local names = queue_names(ctx)
  if ctx.count.paused == 0 then return names end
  local paused, open = paused_queues(ctx), {}
  for _, name in ipairs(names) do
    if not paused[name] then open[#open + 1] = name end
  end
  return open
end

-- Whether the caller runs tasks of this name; `any` callers run all, one that tries a name runs `only` that.
local function can_run(ctx, request, name)
  if request.only then return name == request.only end
  if request.names then return request.names[name] end
  if request.any then return true end
  local known = request.known
  if known[name] == nil then
    known[name] = redis.call('SISMEMBER', ctx.prefix .. 'can:' .. ctx.replica, name) == 1
  end
  return known[name]
end

-- Whether a task of this name may start by this call: here, or with its agent.
local function can_start(ctx, request, stream, name) return stream.agents or can_run(ctx, request, name) end

-- A task leaves the place where it waited.
local function leave_place(ctx, stream)
  if stream.parked then
    ctx.count.parked = ctx.count.parked - 1
  elseif stream.agents then
    ctx.count.handing = ctx.count.handing - 1
  end
end

-- The streams of one priority that the caller may take from; also those of names at their limit, where `all` are asked for.
local function streams_of_rank(ctx, request, rank, all)
  local streams = {}
  if ctx.count.parked > 0 then
    if not request.parks then
      request.parks = redis.call('SMEMBERS', ctx.prefix .. 'parks')
      table.sort(request.parks)
    end
    for _, name in ipairs(request.parks) do
      local for_agents = AGENT.parked(name)
      if for_agents then
        if not request.only and (all or LIMIT.room(ctx, for_agents) ~= 0) then
          streams[#streams + 1] = { key = park_stream(ctx, name, rank), parked = for_agents, agents = true }
        end
      elseif can_run(ctx, request, name) and (all or LIMIT.room(ctx, name) ~= 0) then
        streams[#streams + 1] = { key = park_stream(ctx, name, rank), parked = name }
      end
    end
  end
  for _, name in ipairs(request.queues) do
    streams[#streams + 1] = { key = queue_stream(ctx, name, rank) }
  end
  if ctx.count.handing > 0 then
    for _, name in ipairs(AGENT.queues(ctx, request)) do
      streams[#streams + 1] = { key = AGENT.stream(ctx, name, rank), agents = true }
    end
  end
  return streams
end

-- How many of `need` tasks a stream may give: of a name with a limit no more than there is room for.
local function may_give(ctx, stream, need)
  local room = stream.parked and LIMIT.room(ctx, stream.parked)
  return room and math.min(need, room) or need
end

-- Delivers up to `count` entries of a stream to the caller's consumer; what is for agents is moved to theirs.
local function deliver(ctx, request, stream, count)
  local key, consumer = stream.key, stream.agents and 'agent:' or request.consumer or ctx.replica
  for look = 1, 2 do
    local reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', key, '>')
    if not reply then return {} end
    if not reply.err then return reply[1][2] end
    -- Somebody removed the group or the stream; the repair is to make it anew.
    make_group(key)
  end
  return {}
end

-- Leaves an entry with the replica that runs its task: the group was removed and made anew, and hands out again what is
-- under way. An owner that has died meanwhile is to be missed by somebody.
local function leave_with_owner(ctx, key, entry, owner, id)
  if owner == AGENT.OWNER then
    local agent = redis.call('HGET', AGENT.key(ctx, id), 'agent') or ''
    redis.call('XCLAIM', key, GROUP, 'agent:' .. agent, 0, entry, 'JUSTID')
    return
  end
  redis.call('XCLAIM', key, GROUP, owner, 0, entry, 'JUSTID')
  redis.call('HSETNX', ctx.prefix .. 'beats', owner, 0)
end

-- When the first entry of a stream entered it, ms; nil when it is empty. No waiting entry is older.
local function oldest_waiting(key)
  local first = STREAM.range(key, '-', '+', 1)[1]
  if not first then return nil end
  return tonumber(string.match(first[1], '^%d+'))
end

-- The id of the oldest entry that nobody has been given yet; nil when none waits.
local function head_of(key)
  local groups = redis.pcall('XINFO', 'GROUPS', key)
  if groups.err then return nil end
  -- Where somebody removed the group, all that stands there waits.
  local from = '-'
  for _, group in ipairs(groups) do
    local fields = {}
    for i = 1, #group, 2 do fields[group[i]] = group[i + 1] end
    if fields['name'] == GROUP then from = '(' .. fields['last-delivered-id'] end
  end
  local head = STREAM.range(key, from, '+', 1)[1]
  return head and head[1]
end

-- When that entry entered the stream, ms.
undelivered_since = function(key)
  local head = head_of(key)
  return head and tonumber(string.match(head, '^%d+'))
end

-- The stream below the highest priority whose head has waited longest, when that is too long. Else nil, and the moment
-- before which none can be overdue.
local function most_overdue(ctx, request)
  local limit = ctx.now - request.max_wait_ms
  -- What comes from now on has waited too long at the earliest then.
  local earliest = ctx.now
  local found, since
  for rank = 1, 3 do
    for _, stream in ipairs(streams_of_rank(ctx, request, rank, true)) do
      local head = oldest_waiting(stream.key)
      -- The first entry may be one that runs; only when it is old is the exact head worth asking for.
      if head and head <= limit then head = undelivered_since(stream.key) end
      local is_worse = head and head <= limit and (not since or head < since)
      if is_worse and may_give(ctx, stream, 1) > 0 then found, since = stream, head end
      if head and head < earliest then earliest = head end
    end
  end
  return found, earliest + request.max_wait_ms
end

-- Whether the caller may run a task whose next loss would be its last. It killed whoever ran it, or stood beside one that
-- did; to tell, no replica runs two of them at once. The last one that a replica took stands in its hash.
local function may_risk(ctx, id)
  if ctx.risk then return false end
  local own = ctx.prefix .. 'replica:' .. ctx.replica
  local before = redis.call('HGET', own, 'risk')
  if before and before ~= id then
    local h = read_header(load_front(ctx, before, HEADER_BYTES))
    if h and h[STATE] == RUNNING and h[OWNER] == ctx.replica then return false end
  end
  redis.call('HSET', own, 'risk', id)
  ctx.risk = id
  return true
end

-- Turns delivered entries into running tasks; what the caller can not run is parked, what is stale is dropped.
local function start(ctx, request, entries, stream, started)
  if #entries == 0 then return end
  local ids = {}
  for i, entry in ipairs(entries) do ids[i] = entry[2] and entry[2][2] or '' end
  local keys = task_keys(ctx, ids)
  local records = load_records(keys)
  for i, entry in ipairs(entries) do
    local id, raw = ids[i], records[i]
    local h = read_header(raw)
    local is_its_entry = h and entry_id(ctx, h) == entry[1]
    if is_its_entry and h[STATE] == RUNNING then
      leave_with_owner(ctx, stream.key, entry[1], h[OWNER], id)
    elseif not is_its_entry or h[STATE] ~= PENDING then
      -- Not the entry that this task waits in: an outsider's, or one whose task is gone.
      leave_place(ctx, stream)
      finish_entry(ctx, stream.key, entry_numbers(entry[1]))
    else
      leave_place(ctx, stream)
      local queue, head, correlation, trace, group, step, name = read_body(raw)
      if stream.parked or stream.agents then aside(ctx, queue, h[RANK], -1) end
      local is_asked_for = stream.agents or not request.queue or queue == request.queue
      if (ctx.count.paused > 0 and paused_queues(ctx)[queue]) or not is_asked_for then
        -- Parked before its queue was paused, or of another queue than is asked for. It waits there with the others, at the tail of its priority.
        finish_entry(ctx, stream.key, entry_numbers(entry[1]))
        enqueue(ctx, id, h, queue)
        save(ctx, keys[i], raw, h)
      elseif not stream.parked and name ~= '' and (not can_start(ctx, request, stream, name) or LIMIT.room(ctx, name) == 0) then
        local park_name = AGENT.park(h, name)
        local park = park_stream(ctx, park_name, h[RANK])
        finish_entry(ctx, stream.key, entry_numbers(entry[1]))
        make_group(park)
        redis.call('SADD', ctx.prefix .. 'parks', park_name)
        -- With its old number, so that it keeps its place among what waits longer or shorter.
        local parked = add_entry(park, entry[1], id)
        if parked then
          set_entry(h, parked)
          h[PLACE] = PARKED
          aside(ctx, queue, h[RANK], 1)
          ctx.count.parked = ctx.count.parked + 1
        else
          STREAM.put_off(ctx, id, h, queue)
        end
        ctx.fresh[id] = true
        save(ctx, keys[i], raw, h)
        if not can_start(ctx, request, stream, name) then ring(ctx, 'parked', name) end
        -- As much work as to hand it over.
        if stream.agents then request.handed = request.handed + 1 end
      elseif stream.agents then
        LIMIT.enter(ctx, name, id)
        request.handed = request.handed + AGENT.hand(ctx, id, keys[i], raw, h, stream.key, entry[1])
      elseif request.agent then
        LIMIT.enter(ctx, name, id)
        ctx.fresh[id] = nil
        started[#started + 1] = AGENT.lend(ctx, request, id, keys[i], raw, h)
      elseif h[LOSSES] >= LOSSES_MAX - 1 and not may_risk(ctx, id) then
        finish_entry(ctx, stream.key, entry_numbers(entry[1]))
        ctx.fresh[id] = nil
        h[PLACE] = DELAYED
        aside(ctx, queue, h[RANK], 1)
        CLOCK.set_timer(ctx, id, ctx.now + RISKY_PAUSE_MS)
        save(ctx, keys[i], raw, h)
      else
        ctx.fresh[id] = nil
        local slot = request.slots[#started + 1]
        local waiting = WAITING[h[RANK]]
        h[STATE] = RUNNING
        h[ATTEMPT] = h[ATTEMPT] + 1
        h[OWNER] = ctx.replica
        h[SLOT] = slot
        h[STARTED] = ctx.now
        ctx.count[waiting] = ctx.count[waiting] - 1
        ctx.count.running = ctx.count.running + 1
        if ctx.count.limited > 0 then LIMIT.enter(ctx, name, id) end
        ctx.count.served = ctx.count.served + 1
        emit_task(ctx, 'orchestration.task.started', id, h, head, correlation, trace,
          '"worker_id":"' .. ctx.replica .. '/' .. digits(slot) .. '","started_at":"' .. ctx.iso .. '"')
        save_header(keys[i], h)
        -- The record as it was: whoever runs the task needs of it only what this claim does not change.
        local one = { id, h[ATTEMPT], slot, raw }
        if h[FLAGS] ~= 0 then
          if has(h, IS_STEP) and h[ATTEMPT] == 1 then SAGA.step_started(ctx, id, group, step) end
          if has(h, HAS_DEPENDENCIES) then one[5] = read_inputs(ctx, id, h, group) end
        end
        started[#started + 1] = one
      end
    end
  end
end

-- How many more entries of a stream may start: as many as there are free slots, or as one call hands over to agents.
local function room_for(ctx, request, stream, wanted, started)
  local room = stream.agents and HAND_BATCH - request.handed or wanted - #started
  if ctx.max_running > 0 then room = math.min(room, ctx.max_running - ctx.count.running) end
  return may_give(ctx, stream, room)
end

-- Whether a call may look once more. Where it may not though it could, the bell has somebody go on.
local function may_look(ctx, request)
  request.looks = request.looks - 1
  if request.looks == -1 then ring(ctx, 'more', '') end
  return request.looks >= 0
end

-- Takes from one stream alone; a second look, since what was parked or dropped left slots free.
local function take_from(ctx, request, stream, wanted, started)
  while true do
    local need = room_for(ctx, request, stream, wanted, started)
    if need <= 0 or not may_look(ctx, request) then return end
    local entries = deliver(ctx, request, stream, need)
    start(ctx, request, entries, stream, started)
    if #entries < need then return end
  end
end

-- Takes from several streams of one priority in the order in which tasks entered them.
local function take_in_order(ctx, request, streams, wanted, started)
  local waiting = {}
  for _, stream in ipairs(streams) do
    local head = (STREAM.call('XLEN', stream.key) or 0) > 0 and head_of(stream.key)
    if head then
      stream.head = head
      waiting[#waiting + 1] = stream
    end
  end
  while may_look(ctx, request) do
    local first, second
    for place, stream in ipairs(waiting) do
      local ms, seq = entry_numbers(stream.head)
      local candidate = { place = place, ms = ms, seq = seq }
      if room_for(ctx, request, stream, wanted, started) <= 0 then
        -- No slot is left for it, or nothing may run.
      elseif not first or ms < first.ms or (ms == first.ms and seq < first.seq) then
        first, second = candidate, first
      elseif not second or ms < second.ms or (ms == second.ms and seq < second.seq) then
        second = candidate
      end
    end
    if not first then return end
    local stream = waiting[first.place]
    local need = room_for(ctx, request, stream, wanted, started)
    local count = need
    if second then
      -- All that is older than the head of any other.
      local before = '(' .. entry_text(ctx, second.ms, second.seq)
      count = #redis.call('XRANGE', stream.key, stream.head, before, 'COUNT', need)
    end
    count = may_give(ctx, stream, math.max(count, 1))
    local entries = count > 0 and deliver(ctx, request, stream, count) or {}
    start(ctx, request, entries, stream, started)
    local last = entries[#entries]
    local next_entry = last and redis.call('XRANGE', stream.key, '(' .. last[1], '+', 'COUNT', 1)[1]
    if next_entry then
      stream.head = next_entry[1]
    else
      table.remove(waiting, first.place)
    end
  end
end

-- Of the queues that tasks are handed out of, the one that is asked for.
local function only_queue(request)
  for _, name in ipairs(request.queues) do
    if name == request.queue then return { name } end
  end
  return {}
end

-- Takes tasks for the free slots. Answers the started ones and, where `bells` are asked for, an entry id that stands before
-- all news and the stream to wait behind.
take = function(ctx, request)
  local started = {}
  local wanted = #request.slots
  -- One that was taken for dead and does not know it yet would put tasks where nobody looks for them.
  if wanted > 0 and not request.consumer and redis.call('HEXISTS', ctx.prefix .. 'beats', ctx.replica) == 0 then wanted = 0 end
  if ctx.max_running > 0 then wanted = math.min(wanted, ctx.max_running - ctx.count.running) end
  request.known, request.handed = {}, 0
  -- What is for agents needs no slot.
  local is_waited_for = request.hands or AGENT.waits(ctx)
  local hands_over = is_waited_for and not request.only and not (ctx.max_running > 0 and ctx.count.running >= ctx.max_running)
  request.looks = LOOKS_EACH * (wanted + (is_waited_for and HAND_BATCH or 0)) + LOOKS_BESIDE
  if wanted > 0 or hands_over then
    flush(ctx)
    -- What nobody may run just now is parked, so whoever tries it need not look anywhere else.
    request.queues = request.only and {} or open_queues(ctx)
    if request.queue then request.queues = only_queue(request) end
    local due = math.floor((ctx.count.served % RESCUE_EVERY + wanted) / RESCUE_EVERY)
    -- A moment further away than any wait was written by a clock that has gone back since.
    if due > 0 and not request.only and (ctx.now >= ctx.overdue_ms or ctx.overdue_ms > ctx.now + request.max_wait_ms) then
      for turn = 1, math.min(due, wanted) do
        local overdue, earliest = most_overdue(ctx, request)
        if not overdue then
          redis.call('HSET', ctx.meta, 'overdue_ms', string.format('%d', earliest))
          break
        end
        start(ctx, request, deliver(ctx, request, overdue, 1), overdue, started)
      end
    end
    for rank = 0, 3 do
      -- Most of the time nothing waits at most priorities. One that asks by itself looks all the same: should a count
      -- ever be wrong, no task waits for ever.
      if request.bells or ctx.count[WAITING[rank]] > 0 then
        local streams = streams_of_rank(ctx, request, rank)
        if #streams == 1 and not streams[1].agents then
          take_from(ctx, request, streams[1], wanted, started)
        else
          take_in_order(ctx, request, streams, wanted, started)
        end
      end
      if #started >= wanted and not (hands_over and (ctx.count.handing > 0 or ctx.count.parked > 0)) then break end
    end
    if request.handed >= HAND_BATCH and (ctx.count.handing > 0 or AGENT.has_parked(ctx)) then
      ctx.is_hand_full = true
      ring(ctx, 'work', '')
    end
  end
  if not request.bells or #started >= #request.slots then return started, {} end
  -- Entries are numbered by the clock: what enters from now on has a later id than the end of the millisecond before.
  return started, { string.format('%d-18446744073709551615', ctx.now - 1), ctx.prefix .. 'ready' }
end
end
