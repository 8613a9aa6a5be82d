--[[
agent: tasks that agents carry out: programs outside, which get them through an inbox and answer on the bus or over HTTP.

A task for an agent waits in a stream of its own beside its queue's, so that handing it over needs no worker's free slot and
never moves what stands before it there. Whichever call makes it ready, or makes room for it, hands it over at its end (see
`take`): the attempt begins, the entry is pending under `agent:<id>`, and the assignment stands in the stream
`agent:<id>`. A worker over HTTP holds what it claimed in the same way, without the inbox.

What only such tasks have is in the hash `g:<task>`: `agent`, who holds or held it; `inbox`, the entry of the assignment;
`silence` and `timeout`, in ms; `beat`, when it was last heard of; `read`, when its assignment was found read; `from`, when the
attempt began where the clock went behind that since; `since`, when it began by the steady clock (see clock.lua), where it has a
timeout; `progress`;
`last`, attempt and entry of the last answer that counted; `r<attempt>`, the event that ended the attempt, so that its second
delivery is known as one. One timer a task, under the task's id, looks whether its agent is silent or its time is up.
]]
-- How long an agent may be silent where nobody says.
AGENT.SILENCE_MS = 60000
-- With more results than this, or more bytes of them, an assignment carries none: they are in the task's document.
AGENT.INPUTS_MAX = 1000
AGENT.INPUTS_BYTES = 4194304
-- How often the time of an attempt that is up is looked at until somebody has ended it.
AGENT.EXPIRY_MS = 1000
-- How many ends of attempts are remembered, so that their second delivery does no harm.
AGENT.ANSWERS_KEPT = 16
-- How many entries of an inbox one call looks at for notices that were read.
AGENT.TIDY_LOOKS = 100

function AGENT.key(ctx, id) return ctx.prefix .. 'g:' .. id end

function AGENT.inbox(ctx, agent) return ctx.prefix .. 'agent:' .. agent end

-- Makes an inbox and its group, so that an agent only has to read.
function AGENT.make_inbox(ctx, agent)
  redis.call('SADD', ctx.prefix .. 'agents', agent)
  redis.pcall('XGROUP', 'CREATE', AGENT.inbox(ctx, agent), agent, '0', 'MKSTREAM')
end

-- Makes the streams beside a queue's known on their first use.
function AGENT.ensure(ctx, queue)
  if redis.call('SADD', ctx.prefix .. 'desks', queue) == 0 then return end
  for rank = 0, 3 do make_group(AGENT.stream(ctx, queue, rank)) end
end

-- Which agent carries out tasks of a name, as "agent silence_ms timeout_ms"; nil where a handler does. `wanted` is the agent
-- that the caller named; a handler of kind agent names one too.
function AGENT.route(ctx, name, wanted)
  if not wanted and ctx.count.agent_names == 0 then return nil end
  local own = ctx.count.agent_names > 0 and redis.call('HGET', ctx.prefix .. 'agent_names', name)
  if own then return wanted and wanted .. string.match(own, ' .*$') or own end
  if not wanted then return nil end
  if is_registered(ctx, name) then return nil end
  return string.format('%s %d 0', wanted, AGENT.SILENCE_MS)
end

-- The body of a task with the agent that it is for behind its name, and its created payload with the same.
function AGENT.assign(h, body, payload, agent)
  set_flag(h, AGENT.FOR)
  local _, upto = string.find(body, '^[^\n]*\n[^\n ]*')
  local rest = string.find(body, '\n', upto + 1, true)
  local from, to = string.find(payload, '"agent_id":null', 1, true)
  if from then
    payload = string.sub(payload, 1, from - 1) .. '"agent_id":"' .. string.match(agent, '^%S+') .. '"' .. string.sub(payload, to + 1)
  end
  body = string.sub(body, 1, upto) .. ' ' .. agent .. string.sub(body, rest)
  h[BODY] = #body
  return body, payload
end

-- Who ran the last attempt, as events name it.
function AGENT.worker(ctx, id, h)
  if h[OWNER] == AGENT.OWNER then return 'agent:' .. (redis.call('HGET', AGENT.key(ctx, id), 'agent') or '') end
  return h[OWNER] .. '/' .. digits(h[SLOT])
end

-- Arguments of a task as they came: args, kwargs, metadata, and the timeout in ms where the task has one. How long each is
-- stands in front of the spec.
function AGENT.spec(raw, h)
  local at = string.match(raw, '^[^\n]*\n[^\n]*\n[^\n]*\n[^\n]*\n[^\n]*\n[^\n]*\n()', HEADER_BYTES + 1)
  local a, k, m, open = string.match(raw, '^(%d+)%.(%d+)%.(%d+)(){', at)
  local args, kwargs, metadata, place = '[]', '{}', '{}', (open or at) + 1
  a, k, m = tonumber(a) or 0, tonumber(k) or 0, tonumber(m) or 0
  if a > 0 then
    args = string.sub(raw, place + 7, place + 6 + a)
    place = place + 8 + a
  end
  if k > 0 then
    kwargs = string.sub(raw, place + 9, place + 8 + k)
    place = place + 10 + k
  end
  local timeout = tonumber(string.match(raw, '^"timeout_seconds":([%d%.eE+-]+)', place) or nil)
  if m > 0 then
    local last = HEADER_BYTES + h[BODY] - 1
    metadata = string.sub(raw, last - m + 1, last)
  end
  return args, kwargs, metadata, timeout and math.floor(timeout * 1000) or nil
end

-- The results of what a task depends on as JSON; null where they are too many or too large for a message.
function AGENT.inputs(ctx, id, h, group)
  if not has(h, HAS_DEPENDENCIES) and not has(h, IS_STEP) then return '{}' end
  local inputs = read_inputs(ctx, id, h, group, AGENT.INPUTS_MAX)
  if not inputs then return 'null' end
  local members, bytes = {}, 0
  for i = 1, #inputs, 2 do
    members[#members + 1] = '"' .. inputs[i] .. '":' .. inputs[i + 1]
    bytes = bytes + #inputs[i + 1]
  end
  if bytes > AGENT.INPUTS_BYTES then return 'null' end
  return '{' .. table.concat(members, ',') .. '}'
end

-- An event in an inbox: numbered within its attempt, caused by an event of the task. Answers its entry.
function AGENT.tell(ctx, agent, kind, id, h, number, correlation, trace, payload)
  local subject = id .. '.' .. digits(h[ATTEMPT])
  local entry = { 'XADD', AGENT.inbox(ctx, agent), '*', 'event_type', kind, 'source_agent', ctx.source, 'event_id',
    subject .. '/' .. number, 'correlation_id', correlation, 'causation_id', id .. '/' .. digits(h[SEQ]), 'timestamp', ctx.iso,
    'payload', payload }
  if trace and trace ~= '' then
    local parent, state = string.match(trace, '^([^\31]*)\31?(.*)$')
    entry[#entry + 1] = 'traceparent'
    entry[#entry + 1] = parent
    if state ~= '' then
      entry[#entry + 1] = 'tracestate'
      entry[#entry + 1] = state
    end
  end
  return redis.call(unpack(entry))
end

-- Puts the assignment of the attempt under way into its agent's inbox. Answers its entry and how large it is.
function AGENT.put(ctx, agent, id, raw, h, timeout_ms)
  local _, head, correlation, trace, group = read_body(raw)
  local args, kwargs, metadata = AGENT.spec(raw, h)
  local is_saga = has(h, IS_STEP) or has(h, IS_COMPENSATION)
  local workflow = group ~= '' and not is_saga and '"' .. group .. '"' or 'null'
  local deadline = timeout_ms > 0 and '"' .. iso(h[STARTED] + timeout_ms) .. '"' or 'null'
  local payload = table.concat({ '{"task_id":"', id, '","attempt":', digits(h[ATTEMPT]), ',"name":"', task_name_of(head),
    '","args":', args, ',"kwargs":', kwargs, ',"inputs":', AGENT.inputs(ctx, id, h, group), ',"workflow_id":', workflow,
    ',"metadata":', metadata, ',"deadline":', deadline, '}' })
  return AGENT.tell(ctx, agent, 'orchestration.task.assigned', id, h, '1', correlation, trace, payload), #payload
end

-- Begins an attempt that an agent holds.
function AGENT.begin(ctx, id, key, raw, h, agent, silence_ms, timeout_ms)
  local _, head, correlation, trace, group, step = read_body(raw)
  local waiting = WAITING[h[RANK]]
  h[STATE] = RUNNING
  h[ATTEMPT] = h[ATTEMPT] + 1
  h[OWNER] = AGENT.OWNER
  h[SLOT] = 0
  h[STARTED] = ctx.now
  set_flag(h, AGENT.BY)
  ctx.count[waiting] = ctx.count[waiting] - 1
  ctx.count.running = ctx.count.running + 1
  ctx.count.served = ctx.count.served + 1
  emit_task(ctx, 'orchestration.task.started', id, h, head, correlation, trace,
    '"worker_id":"agent:' .. agent .. '","started_at":"' .. ctx.iso .. '"')
  if has(h, IS_STEP) and h[ATTEMPT] == 1 then SAGA.step_started(ctx, id, group, step) end
  local own, due = AGENT.key(ctx, id), silence_ms
  redis.call('HDEL', own, 'inbox', 'beat', 'read', 'from', 'progress')
  redis.call('HSET', own, 'agent', agent, 'silence', string.format('%d', silence_ms), 'timeout', string.format('%d', timeout_ms))
  if timeout_ms > 0 then redis.call('HSET', own, 'since', string.format('%d', CLOCK.steady(ctx))) end
  if timeout_ms > 0 and timeout_ms < due then due = timeout_ms end
  CLOCK.set_timer(ctx, id, ctx.now + due)
  save_header(key, h)
end

-- Hands a task over to the agent that it is for. Answers how much that counts against what one call may do.
function AGENT.hand(ctx, id, key, raw, h, stream, entry)
  local _, _, _, _, _, _, _, text = read_body(raw)
  local agent, silence_ms, timeout_ms = string.match(text, '^(%S+) (%d+) (%d+)$')
  local _, _, _, own_ms = AGENT.spec(raw, h)
  timeout_ms = own_ms or tonumber(timeout_ms)
  redis.call('XCLAIM', stream, GROUP, 'agent:' .. agent, 0, entry, 'JUSTID')
  AGENT.begin(ctx, id, key, raw, h, agent, tonumber(silence_ms), timeout_ms)
  if redis.call('SISMEMBER', ctx.prefix .. 'agents', agent) == 0 then AGENT.make_inbox(ctx, agent) end
  local inbox, bytes = AGENT.put(ctx, agent, id, raw, h, timeout_ms)
  redis.call('HSET', AGENT.key(ctx, id), 'inbox', inbox)
  return 1 + math.floor(bytes / 16384)
end

-- Hands a waiting task to whoever claims it over HTTP.
function AGENT.lend(ctx, request, id, key, raw, h)
  local _, _, _, timeout_ms = AGENT.spec(raw, h)
  local _, _, _, _, group = read_body(raw)
  AGENT.begin(ctx, id, key, raw, h, request.agent, request.silence_ms, timeout_ms or 0)
  local one = { id, h[ATTEMPT], 0, raw }
  if has(h, HAS_DEPENDENCIES) or has(h, IS_STEP) then one[5] = read_inputs(ctx, id, h, group) end
  return one
end

-- Hands over what waits for agents, as far as limits and pauses let it; costs nothing where nothing does. What is parked at
-- its name's limit is looked at where there is room since this call, or with `all`.
function AGENT.hand_over(ctx, all)
  if AGENT.waits(ctx) or (all and AGENT.has_parked(ctx)) then take(ctx, { slots = {}, max_wait_ms = 60000, hands = true }) end
end

-- Whether something may wait that can be handed over now.
function AGENT.waits(ctx) return ctx.count.handing > 0 or (ctx.count.parked > 0 and LIMIT.has_room(ctx)) end

function AGENT.has_parked(ctx)
  if ctx.count.parked == 0 then return false end
  for _, park in ipairs(redis.call('SMEMBERS', ctx.prefix .. 'parks')) do
    if AGENT.parked(park) then return true end
  end
  return false
end

-- The queues beside which something for agents may wait, of those that are handed out of.
function AGENT.queues(ctx, request)
  if not request.desks then
    request.desks = {}
    local is_open = {}
    for _, name in ipairs(request.queues) do is_open[name] = true end
    local names = redis.call('SMEMBERS', ctx.prefix .. 'desks')
    table.sort(names)
    for _, name in ipairs(names) do
      if is_open[name] then request.desks[#request.desks + 1] = name end
    end
  end
  return request.desks
end

-- An agent's attempt is over: its timer and its assignment go. With a reason the agent is told to stop.
function AGENT.part(ctx, id, h, reason, correlation, trace)
  local known = redis.call('HMGET', AGENT.key(ctx, id), 'agent', 'inbox')
  local agent, entry = known[1], known[2]
  redis.call('ZREM', ctx.prefix .. 'timers', id)
  if not agent or not entry then return end
  redis.pcall('XACK', AGENT.inbox(ctx, agent), agent, entry)
  redis.call('XDEL', AGENT.inbox(ctx, agent), entry)
  if reason then
    AGENT.tell(ctx, agent, 'orchestration.task.cancel', id, h, '2', correlation, trace,
      '{"task_id":"' .. id .. '","attempt":' .. digits(h[ATTEMPT]) .. ',"reason":"' .. reason .. '"}')
  end
end

-- A time that was kept of an attempt under `field`. Where the clock has gone behind it that is now, from now on: else what
-- counts from it would not begin before the clock is there again.
function AGENT.time(ctx, id, field, ms)
  if ms <= ctx.now then return ms end
  redis.call('HSET', AGENT.key(ctx, id), field, string.format('%d', ctx.now))
  return ctx.now
end

-- When an attempt began.
function AGENT.began(ctx, id, h, from) return AGENT.time(ctx, id, 'from', tonumber(from) or h[STARTED]) end

-- How much of its time an attempt has left, ms.
function AGENT.left(ctx, h, timeout_ms, since)
  return timeout_ms - (CLOCK.steady(ctx) - (tonumber(since) or h[STARTED]))
end

-- When silence can have begun at the earliest, by the clock.
function AGENT.awake(ctx)
  ctx.awake_ms = ctx.awake_ms or tonumber(redis.call('HGET', ctx.meta, 'awake_ms')) or 0
  return ctx.awake_ms <= ctx.now and ctx.awake_ms or 0
end

-- When an agent was last heard of, ms: now, as long as nobody has read the assignment.
function AGENT.heard(ctx, id, raw, h, known)
  local agent, entry, since = known[1], known[2], AGENT.time(ctx, id, 'beat', tonumber(known[5]) or 0)
  since = math.max(since, AGENT.awake(ctx))
  if not entry then return math.max(since, AGENT.began(ctx, id, h, known[7])) end
  local inbox = AGENT.inbox(ctx, agent)
  local pending = redis.pcall('XPENDING', inbox, agent, entry, entry, 1)
  if pending.err then
    -- Somebody removed the inbox or its group.
    AGENT.make_inbox(ctx, agent)
  elseif pending[1] then
    local who, idle_ms = pending[1][2], pending[1][3]
    -- Read just now, or at a time that the clock has gone behind; then it counts from now.
    if idle_ms == 0 then redis.call('XCLAIM', inbox, agent, who, 0, entry, 'IDLE', 0, 'JUSTID') end
    return math.max(since, ctx.now - idle_ms)
  elseif not is_later(entry, delivered_id(inbox, agent)) then
    -- Read, and acknowledged at once or without a trace; from now on it counts.
    local read = tonumber(known[6])
    if not read then
      read = ctx.now
      redis.call('HSET', AGENT.key(ctx, id), 'read', string.format('%d', read))
    end
    return math.max(since, AGENT.time(ctx, id, 'read', read))
  end
  if not redis.call('XRANGE', inbox, entry, entry)[1] then
    redis.call('HSET', AGENT.key(ctx, id), 'inbox', (AGENT.put(ctx, agent, id, raw, h, tonumber(known[4]))))
  end
  return ctx.now
end

-- Looks whether an agent is silent or its time is up; answers when to look again, nil when the attempt has ended. Attempts whose
-- time is up are gathered in `ctx.expired`: how long they wait for the next is reckoned outside.
function AGENT.look(ctx, id, raw, h)
  local known = redis.call('HMGET', AGENT.key(ctx, id), 'agent', 'inbox', 'silence', 'timeout', 'beat', 'read', 'from', 'since')
  local silence_ms, timeout_ms = tonumber(known[3]) or AGENT.SILENCE_MS, tonumber(known[4]) or 0
  local due
  if timeout_ms > 0 then
    due = ctx.now + AGENT.left(ctx, h, timeout_ms, known[8])
    if due <= ctx.now then
      ctx.expired[#ctx.expired + 1] = id
      ctx.expired[#ctx.expired + 1] = h[ATTEMPT]
      return ctx.now + AGENT.EXPIRY_MS
    end
  end
  local silent_from = AGENT.heard(ctx, id, raw, h, known) + silence_ms
  if silent_from <= ctx.now then
    lose(ctx, id, raw, h, string.format('{"type":"lost","message":"agent %s was silent for %d s while it ran the task"}',
      known[1] or '', math.floor(silence_ms / 1000)))
    return nil
  end
  return due and math.min(due, silent_from) or silent_from
end

-- Whether a task has ended.
function AGENT.is_over(h) return h[STATE] ~= PENDING and h[STATE] ~= RUNNING end

-- Whether somebody who answers is the agent, or one of its processes.
function AGENT.is_self(agent, who)
  return who == '' or who == agent or string.sub(who, 1, #agent + 1) == agent .. '/'
end

-- What is left of agents that nothing is asked of: consumers that hold nothing, and notices that were read or are old.
function AGENT.tidy(ctx, kept_ms, forget_streams)
  for _, queue in ipairs(redis.call('SMEMBERS', ctx.prefix .. 'desks')) do
    local streams = {}
    for rank = 0, 3 do streams[rank] = AGENT.stream(ctx, queue, rank) end
    if forget_streams(streams, math.huge) then
      redis.call('SREM', ctx.prefix .. 'desks', queue)
    else
      for rank = 0, 3 do AGENT.tidy_consumers(streams[rank]) end
    end
  end
  for _, queue in ipairs(queue_names(ctx)) do
    for rank = 0, 3 do AGENT.tidy_consumers(queue_stream(ctx, queue, rank)) end
  end
  for _, agent in ipairs(redis.call('SMEMBERS', ctx.prefix .. 'agents')) do
    local inbox = AGENT.inbox(ctx, agent)
    local groups = redis.pcall('XINFO', 'GROUPS', inbox)
    if groups.err then
      redis.call('SREM', ctx.prefix .. 'agents', agent)
    else
      local last = delivered_id(inbox, agent)
      for _, entry in ipairs(redis.call('XRANGE', inbox, '-', '+', 'COUNT', AGENT.TIDY_LOOKS)) do
        if field_of(entry[2], 'event_type') == 'orchestration.task.cancel' then
          local ms = entry_numbers(entry[1])
          local is_read = not is_later(entry[1], last) and #redis.call('XPENDING', inbox, agent, entry[1], entry[1], 1) == 0
          if is_read or ms <= ctx.now - kept_ms then
            redis.call('XACK', inbox, agent, entry[1])
            redis.call('XDEL', inbox, entry[1])
          end
        end
      end
    end
  end
  if ctx.count.agent_names > 0 then
    for _, name in ipairs(redis.call('HKEYS', ctx.prefix .. 'agent_names')) do
      if not redis.call('ZSCORE', ctx.prefix .. 'handlers', name) then redis.call('HDEL', ctx.prefix .. 'agent_names', name) end
    end
    ctx.count.agent_names = redis.call('HLEN', ctx.prefix .. 'agent_names')
  end
end

-- Removes an agent's consumers that hold nothing.
function AGENT.tidy_consumers(stream)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
  if consumers.err then return end
  for _, consumer in ipairs(consumers) do
    local fields = {}
    for i = 1, #consumer, 2 do fields[consumer[i]] = consumer[i + 1] end
    if fields['pending'] == 0 and string.sub(fields['name'], 1, 6) == 'agent:' then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, fields['name'])
    end
  end
end
