--[[
end: how tasks end, whoever ends them; and what every end leaves behind.

An end of a task that others depend on, or of a group's, is gathered in `ctx.endings`; what follows from it is done by
`follow` (see follow.lua) at the end of the call.
]]
-- Counts an ended task, and remembers it for `follow` where others have to do with its end.
local function count_end(ctx, id, h, state, group, step, data, root)
  h[STATE] = state
  h[FINISHED] = ctx.now
  local name = ENDED[state]
  ctx.count[name] = ctx.count[name] + 1
  ctx.ended = (ctx.ended or 0) + 1
  if h[FLAGS] ~= 0 then
    ctx.endings[#ctx.endings + 1] =
      { id = id, h = h, state = state, flags = h[FLAGS], group = group, step = step, data = data, root = root }
  end
end

-- What stands behind the body of a cancelled task; it names the command, so that a second delivery is known as one,
-- and the task whose failure was the root of it.
local function cancel_note(reason, cause, root)
  return '{"type":"cancelled","message":"' .. reason .. '","command":' .. (cause and cjson.encode(cause) or 'null') ..
    (root and ',"root_cause_task_id":"' .. root .. '"' or '') .. '}'
end

-- The task whose failure was the root of another's cancel, read from what stands behind its body.
local function root_of(raw, h)
  return string.match(raw, '"root_cause_task_id":"([^"]+)"}$', HEADER_BYTES + h[BODY] + 1)
end

-- The loss in a row that is permanent: a task that kills whoever runs it must not go round for ever.
local LOSSES_MAX = 3

-- How many failed attempts of a task are remembered: the last ones.
local NOTES_MAX = 100

-- Remembers a failed attempt for `task get` and the dead letter.
local function remember_attempt(ctx, id, h, problem)
  local notes = ctx.prefix .. 'x:' .. id
  if h[ATTEMPT] > NOTES_MAX then redis.call('HDEL', notes, 'a' .. digits(h[ATTEMPT] - NOTES_MAX)) end
  redis.call('HSET', notes, 'a' .. digits(h[ATTEMPT]), string.format(
    '{"attempt":%d,"worker_id":"%s","started_at":"%s","ended_at":"%s","error":%s}',
    h[ATTEMPT], AGENT.worker(ctx, id, h), iso(h[STARTED]), ctx.iso, problem))
end

-- The dead letter of a task's last attempt.
local function letter_of(id, h) return string.format('%s.%d', id, h[ATTEMPT]) end

-- Keeps a full copy of a task in the dead letters: the record with its last number, the errors of its attempts.
local function keep_copy(ctx, id, dead_letter_id, raw, h, head, correlation, reason, problem)
  local kind = (has(h, IS_STEP) or has(h, IS_COMPENSATION)) and 'saga_step' or 'task'
  local copy = { 'HSET', ctx.prefix .. 'dead:' .. dead_letter_id, 'kind', kind, 'task_id', id, 'task_name',
    task_name_of(head), 'reason', reason, 'error', problem, 'correlation_id', correlation, 'dead_lettered_at', ctx.iso,
    'header', pack_header(h), 'body', string.sub(raw, HEADER_BYTES + 1, HEADER_BYTES + h[BODY]) }
  local fields = { 'life' }
  for attempt = math.max(1, h[ATTEMPT] - NOTES_MAX + 1), h[ATTEMPT] do fields[#fields + 1] = 'a' .. digits(attempt) end
  local notes = redis.call('HMGET', ctx.prefix .. 'x:' .. id, unpack(fields))
  notes[1] = notes[1] or '1'
  for i, field in ipairs(fields) do
    if notes[i] then
      copy[#copy + 1] = field
      copy[#copy + 1] = notes[i]
    end
  end
  redis.call(unpack(copy))
  redis.call('ZADD', ctx.prefix .. 'dead', ctx.now, dead_letter_id)
end

-- Says that a task failed for good, and keeps it.
local function bury(ctx, id, raw, h, head, correlation, trace, reason, problem)
  local letter = letter_of(id, h)
  emit_task(ctx, 'orchestration.task.dead_lettered', id, h, head, correlation, trace, '"dead_letter_id":"' .. letter .. '"')
  keep_copy(ctx, id, letter, raw, h, head, correlation, reason, problem)
end

-- Errors behind which an action may have had its effect all the same: nobody knows how far it came, or it was done and only
-- its answer is of no use. `src/domain/history/saga_life.rs` knows them too.
local DOUBTFUL = { timeout = true, lost = true, cancelled = true, connection_broken = true, invalid_result = true,
  result_too_large = true, panic = true }
-- The least pause before a step behind its saga's pivot is tried again after an error that is not to be retried.
local STUBBORN_MS = 5000

-- Ends a running attempt without success: another try after `delay_ms`, or the end of the task. Answers what became
-- of it. The entry of the attempt must have been gathered for `retire` already.
local function fail_attempt(ctx, id, key, raw, h, body, outcome, delay_ms, problem, reason)
  local queue, head, correlation, trace, group, step = body[1], body[2], body[3], body[4], body[5], body[6]
  local may_retry = outcome ~= 'rejected' and h[RETRIES] < h[MAX_RETRIES]
  if has(h, IS_STEP) then
    if DOUBTFUL[string.match(problem, '^{"type":"([%w_]+)"')] or outcome == 'timeout' or outcome == 'aborted' then
      set_flag(h, IN_DOUBT)
    end
    local saga = load_group(ctx, group)
    if saga and saga.abort ~= '' then
      may_retry = false
    elseif saga and saga.passed ~= '' then
      -- There is no way back: it is tried until it succeeds.
      may_retry = true
      if outcome == 'rejected' then delay_ms = math.max(delay_ms, STUBBORN_MS) end
    end
  end
  remember_attempt(ctx, id, h, problem)
  leave_running(ctx, id, head)
  if may_retry then
    local field = WAITING[h[RANK]]
    h[STATE] = PENDING
    h[RETRIES] = h[RETRIES] + 1
    ctx.count[field] = ctx.count[field] + 1
    local due = ctx.now + delay_ms
    emit_task(ctx, 'orchestration.task.retry_scheduled', id, h, head, correlation, trace, string.format(
      '"error":%s,"retry_count":%d,"delay_seconds":%s,"due_at":"%s"',
      problem, h[RETRIES], string.format('%.3f', delay_ms / 1000), iso(due)))
    if delay_ms > 0 then
      h[PLACE] = DELAYED
      aside(ctx, queue, h[RANK], 1)
      CLOCK.set_timer(ctx, id, due)
    else
      enqueue(ctx, id, h, queue)
    end
    save(ctx, key, raw, h)
    return 'retry'
  end
  if outcome == 'aborted' or outcome == 'unstarted' then
    -- Its saga goes back, and now its handler has ended.
    count_end(ctx, id, h, CANCELLED, group, step, problem)
    emit_task(ctx, 'orchestration.task.cancelled', id, h, head, correlation, trace,
      '"reason":"saga_aborted","root_cause_task_id":null' .. stop_words(load_group(ctx, group)))
    save(ctx, key, raw, h, cancel_note('saga_aborted'))
    return 'ok'
  end
  local kind = outcome == 'timeout' and 'orchestration.task.timeout' or 'orchestration.task.failed'
  count_end(ctx, id, h, outcome == 'timeout' and TIMEOUT or FAILED, group, step, problem)
  emit_task(ctx, kind, id, h, head, correlation, trace, string.format(
    '"error":%s,"retry_count":%d,"attempts":%d,"worker_id":"%s","failed_at":"%s"',
    problem, h[RETRIES], h[ATTEMPT], AGENT.worker(ctx, id, h), ctx.iso))
  bury(ctx, id, raw, h, head, correlation, trace, reason, problem)
  save(ctx, key, raw, h, problem)
  return 'ok'
end

-- Ends a running attempt with a result. `extra` is what the event carries in place of a large one. The entry of the attempt must
-- have been gathered for `retire` already.
local function complete_attempt(ctx, id, key, raw, h, body, worker, data, extra)
  local duration = ctx.now - h[STARTED]
  if duration < 0 then duration = 0 end
  leave_running(ctx, id, body[2])
  ctx.count.duration_ms = ctx.count.duration_ms + duration
  h[LOSSES] = 0
  -- What events carry of it.
  local result = extra == '' and data or 'null,' .. extra
  count_end(ctx, id, h, COMPLETED, body[5], body[6], result)
  emit_task(ctx, 'orchestration.task.completed', id, h, body[2], body[3], body[4],
    '"result":' .. result .. ',"duration_ms":' .. digits(duration) ..
    ',"worker_id":"' .. worker .. '","completed_at":"' .. ctx.iso .. '"')
  save(ctx, key, raw, h, data)
  if has(h, HAS_DEPENDENTS) then ctx.results[id] = data end
end

-- The attempt ends with its owner: it counts, and the task returns at once unless it is out of tries.
local function lose(ctx, id, raw, h, problem)
  local body = { read_body(raw) }
  if h[OWNER] == AGENT.OWNER then AGENT.part(ctx, id, h) end
  h[LOSSES] = h[LOSSES] + 1
  local outcome = h[LOSSES] >= LOSSES_MAX and 'rejected' or 'failed'
  finish_entry(ctx, stream_of(ctx, h, body[1], body[2]), h[ENTRY_MS], h[ENTRY_SEQ])
  fail_attempt(ctx, id, task_key(ctx, id), raw, h, body, outcome, 0, problem, 'lost')
end

-- Keeps the number of ends in each of the last seconds, for the throughput of the last minute. A ring: the second of 64
-- seconds ago is overwritten.
local RATE_SECONDS = 64

local function count_rate(ctx)
  if not ctx.ended then return end
  local key, second = ctx.prefix .. 'rate', math.floor(ctx.now / 1000)
  local field = digits(second % RATE_SECONDS)
  local known, count = string.match(redis.call('HGET', key, field) or '', '^(%d+) (%d+)$')
  if tonumber(known) ~= second then count = 0 end
  redis.call('HSET', key, field, string.format('%d %d', second, count + ctx.ended))
end

-- `root` is the task whose failure is the reason, if one is.
local function cancel_task(ctx, id, raw, h, reason, cause, members, root)
  local queue, head, correlation, trace, group, step = read_body(raw)
  if h[STATE] == RUNNING then
    if has(h, IS_STEP) then set_flag(h, IN_DOUBT) end
    finish_entry(ctx, stream_of(ctx, h, queue, head), h[ENTRY_MS], h[ENTRY_SEQ])
    leave_running(ctx, id, head)
    if h[OWNER] == AGENT.OWNER then
      AGENT.part(ctx, id, h, reason, correlation, trace)
    else
      ring(ctx, 'cancel', id)
    end
  else
    local field = WAITING[h[RANK]]
    ctx.count[field] = ctx.count[field] - 1
    if h[PLACE] ~= QUEUED then aside(ctx, queue, h[RANK], -1) end
    if h[PLACE] == DELAYED then
      redis.call('ZREM', ctx.prefix .. 'timers', id)
    elseif h[PLACE] ~= BLOCKED then
      if h[PLACE] == PARKED then ctx.count.parked = ctx.count.parked - 1 end
      if h[PLACE] == AGENT.PLACE then ctx.count.handing = ctx.count.handing - 1 end
      STREAM.call('XDEL', stream_of(ctx, h, queue, head), entry_id(ctx, h))
    end
  end
  count_end(ctx, id, h, CANCELLED, group, step, nil, root)
  emit_task(ctx, 'orchestration.task.cancelled', id, h, head, correlation, trace,
    '"reason":"' .. reason .. '","root_cause_task_id":' .. (root and '"' .. root .. '"' or 'null') .. members, cause)
  save(ctx, task_key(ctx, id), raw, h, cancel_note(reason, cause, root))
end

