--[[
settle: ends attempts, and hands out work for the caller's free slots in the same call.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 free slots ("0,3")  3 runs any task ('1' or '0')  4 max_wait_ms
        then three for each attempt: task_id, verdict ("attempt outcome delay_ms", and behind it the JSON members that
        the completed event carries in place of a large result), data (result or error, JSON)
        outcome: completed, failed (may be retried), timeout (may be retried), rejected (must not be), released, aborted (its
        saga was cancelled, and the handler has ended)
Returns { 'ok', { word, ... }, started } with a word for each attempt in order: ok, retry, duplicate (settled before by
        this same attempt), stale (somebody else's by now), missing; or { 'schema', found }. O(attempts).
]]
local SETTLE_ARGS = 3

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
    if h and h[FLAGS] ~= 0 and outcome == 'completed' and has(h, IS_STEP) and h[ATTEMPT] >= verdict.attempt
      and (h[STATE] == FAILED or h[STATE] == TIMEOUT or h[STATE] == CANCELLED) then
      SAGA.late(ctx, id, raw, h, { read_body(raw) }, data)
    end
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
      if outcome == 'released' and h[FLAGS] ~= 0 then
        local ended, problem = SAGA.given_back(ctx, h, body[5], data)
        if ended then outcome, data = ended, problem end
      end
      finish_entry(ctx, stream_of(ctx, h, body[1], head), h[ENTRY_MS], h[ENTRY_SEQ])
      if outcome == 'completed' then
        complete_attempt(ctx, id, keys_of_ids[i], raw, h, body, ctx.replica .. '/' .. digits(h[SLOT]), data, verdict.extra)
        words[i] = 'ok'
      elseif outcome == 'released' then
        local field = WAITING[h[RANK]]
        h[STATE] = PENDING
        h[LOSSES] = 0
        -- Its handler was told to end in the middle.
        if has(h, IS_STEP) and data == '"shutdown"' then set_flag(h, IN_DOUBT) end
        leave_running(ctx, id, head)
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
  follow(ctx, FOLLOW_BUDGET)
  -- Entries leave before new ones are taken, so the streams are short when they are read.
  retire(ctx)
  count_rate(ctx)
  local started = take(ctx, { slots = parse_slots(args[2]), any = args[3] == '1', max_wait_ms = tonumber(args[4]) })
  if was_full and ctx.count.running < ctx.max_running then ring(ctx, 'room', '') end
  retire(ctx)
  close(ctx)
  return { 'ok', words, started }
end

register('settle', settle, DRAINS)
