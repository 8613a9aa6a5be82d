--[[
settle: ends attempts, and hands out work for the caller's free slots in the same call.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 free slots ("0,3")  3 runs any task ('1' or '0')  4 max_wait_ms
        then three for each attempt: task_id, verdict ("attempt outcome delay_ms", and behind it the JSON members that
        the completed event carries in place of a large result), data (result or error, JSON)
        outcome: completed, failed (may be retried), timeout (may be retried), rejected (must not be), released
Returns { 'ok', { word, ... }, started } with a word for each attempt in order: ok, retry, duplicate (settled before by
        this same attempt), stale (somebody else's by now), missing; or { 'schema', found }. O(attempts).
]]
local SETTLE_ARGS = 3

-- The counter of each way to end.
local ENDED = { [COMPLETED] = 'completed', [FAILED] = 'failed', [TIMEOUT] = 'timeout', [CANCELLED] = 'cancelled' }

-- Counts an ended task.
local function count_end(ctx, h, state)
  h[STATE] = state
  h[FINISHED] = ctx.now
  local name = ENDED[state]
  ctx.count[name] = ctx.count[name] + 1
  ctx.ended = (ctx.ended or 0) + 1
end

-- How many failed attempts of a task are remembered: the last ones.
local NOTES_MAX = 100

-- Remembers a failed attempt for `task get` and the dead letter.
local function remember_attempt(ctx, id, h, problem)
  local notes = ctx.prefix .. 'x:' .. id
  if h[ATTEMPT] > NOTES_MAX then redis.call('HDEL', notes, 'a' .. digits(h[ATTEMPT] - NOTES_MAX)) end
  redis.call('HSET', notes, 'a' .. digits(h[ATTEMPT]), string.format(
    '{"attempt":%d,"worker_id":"%s/%d","started_at":"%s","ended_at":"%s","error":%s}',
    h[ATTEMPT], h[OWNER], h[SLOT], iso(h[STARTED]), ctx.iso, problem))
end

-- Keeps a full copy of a task that failed for good, and says so.
local function bury(ctx, id, raw, h, head, correlation, trace, reason, problem)
  local dead_letter_id = string.format('%s.%d', id, h[ATTEMPT])
  local key = ctx.prefix .. 'dead:' .. dead_letter_id
  local copy = { 'HSET', key, 'kind', 'task', 'task_id', id, 'task_name', task_name_of(head), 'reason', reason,
    'error', problem, 'correlation_id', correlation, 'dead_lettered_at', ctx.iso,
    'body', string.sub(raw, HEADER_BYTES + 1, HEADER_BYTES + h[BODY]) }
  local fields = {}
  for attempt = math.max(1, h[ATTEMPT] - NOTES_MAX + 1), h[ATTEMPT] do fields[#fields + 1] = 'a' .. digits(attempt) end
  local notes = redis.call('HMGET', ctx.prefix .. 'x:' .. id, unpack(fields))
  for i, field in ipairs(fields) do
    if notes[i] then
      copy[#copy + 1] = field
      copy[#copy + 1] = notes[i]
    end
  end
  redis.call(unpack(copy))
  redis.call('ZADD', ctx.prefix .. 'dead', ctx.now, dead_letter_id)
  emit_task(ctx, 'orchestration.task.dead_lettered', id, h, head, correlation, trace,
    '"dead_letter_id":"' .. dead_letter_id .. '"')
end

-- Ends a running attempt without success: another try after `delay_ms`, or the end of the task. Answers what became
-- of it. The entry of the attempt must have been gathered for `retire` already.
local function fail_attempt(ctx, id, key, raw, h, body, outcome, delay_ms, problem, reason)
  local queue, head, correlation, trace = body[1], body[2], body[3], body[4]
  local may_retry = outcome ~= 'rejected' and h[RETRIES] < h[MAX_RETRIES]
  remember_attempt(ctx, id, h, problem)
  ctx.count.running = ctx.count.running - 1
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
      redis.call('ZADD', ctx.prefix .. 'timers', string.format('%d', due), id)
    else
      enqueue(ctx, id, h, queue)
    end
    save(ctx, key, raw, h)
    return 'retry'
  end
  local kind = outcome == 'timeout' and 'orchestration.task.timeout' or 'orchestration.task.failed'
  count_end(ctx, h, outcome == 'timeout' and TIMEOUT or FAILED)
  emit_task(ctx, kind, id, h, head, correlation, trace, string.format(
    '"error":%s,"retry_count":%d,"attempts":%d,"worker_id":"%s/%d","failed_at":"%s"',
    problem, h[RETRIES], h[ATTEMPT], h[OWNER], h[SLOT], ctx.iso))
  bury(ctx, id, raw, h, head, correlation, trace, reason, problem)
  save(ctx, key, raw, h, problem)
  return 'ok'
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

local function settle(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local count = math.floor((#args - 4) / SETTLE_ARGS)
  local was_full = ctx.max_running > 0 and ctx.count.running >= ctx.max_running
  local ids, words, seen, verdicts = {}, {}, {}, {}
  for i = 1, count do ids[i] = args[5 + (i - 1) * SETTLE_ARGS] end
  local keys_of_ids = task_keys(ctx, ids)
  local records = load_records(keys_of_ids)
  for i = 1, count do
    local at = 5 + (i - 1) * SETTLE_ARGS
    local id, verdict_text, data = args[at], args[at + 1], args[at + 2]
    local verdict = verdicts[verdict_text]
    if not verdict then
      local attempt, outcome, delay_ms, extra = string.match(verdict_text, '^(%d+) (%a+) (%d+) ?(.*)$')
      verdict = { attempt = tonumber(attempt), outcome = outcome, delay_ms = tonumber(delay_ms), extra = extra }
      verdicts[verdict_text] = verdict
    end
    local outcome = verdict.outcome
    local raw = records[i]
    local h = read_header(raw)
    if not h then
      words[i] = 'missing'
    elseif h[ATTEMPT] ~= verdict.attempt or h[OWNER] ~= ctx.replica then
      words[i] = 'stale'
    elseif seen[id] then
      words[i] = 'duplicate'
    elseif h[STATE] ~= RUNNING then
      -- The same attempt under the same owner: its answer was lost on the way, unless somebody cancelled it meanwhile
      -- or took it away for lost.
      words[i] = (h[STATE] == CANCELLED or h[LOSSES] > 0) and 'stale' or 'duplicate'
    else
      seen[id] = true
      local body = { read_body(raw) }
      local head, correlation, trace = body[2], body[3], body[4]
      finish_entry(ctx, stream_of(ctx, h, body[1], head), h[ENTRY_MS], h[ENTRY_SEQ])
      if outcome == 'completed' then
        local duration = ctx.now - h[STARTED]
        if duration < 0 then duration = 0 end
        ctx.count.running = ctx.count.running - 1
        ctx.count.duration_ms = ctx.count.duration_ms + duration
        h[LOSSES] = 0
        count_end(ctx, h, COMPLETED)
        emit_task(ctx, 'orchestration.task.completed', id, h, head, correlation, trace,
          '"result":' .. (verdict.extra == '' and data or 'null,' .. verdict.extra) .. ',"duration_ms":' .. digits(duration) ..
          ',"worker_id":"' .. ctx.replica .. '/' .. digits(h[SLOT]) .. '","completed_at":"' .. ctx.iso .. '"')
        save(ctx, keys_of_ids[i], raw, h, data)
        words[i] = 'ok'
      elseif outcome == 'released' then
        local field = WAITING[h[RANK]]
        h[STATE] = PENDING
        h[LOSSES] = 0
        ctx.count.running = ctx.count.running - 1
        ctx.count[field] = ctx.count[field] + 1
        emit_task(ctx, 'orchestration.task.released', id, h, head, correlation, trace, '"reason":' .. data)
        enqueue(ctx, id, h, body[1])
        save(ctx, keys_of_ids[i], raw, h)
        words[i] = 'ok'
      else
        h[LOSSES] = 0
        words[i] = fail_attempt(ctx, id, keys_of_ids[i], raw, h, body, outcome, verdict.delay_ms, data,
          outcome == 'timeout' and 'timeout' or 'handler_error')
      end
    end
  end
  -- Entries leave before new ones are taken, so the streams are short when they are read.
  retire(ctx)
  count_rate(ctx)
  local started = take(ctx, { slots = parse_slots(args[2]), any = args[3] == '1', max_wait_ms = tonumber(args[4]) })
  if was_full and ctx.count.running < ctx.max_running then ring(ctx, 'room', '') end
  retire(ctx)
  close(ctx)
  return { 'ok', words, started }
end
