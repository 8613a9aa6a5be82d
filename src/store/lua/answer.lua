--[[
answer: what agents say of attempts that they hold: how they ended, or that they go on.

Only the current attempt of a task counts, and only from the agent that holds it. The same event a second time changes nothing,
and is told from another that comes too late.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica, then six for each: task_id, who answers ('' for whoever holds it), event_id (or ''), entry of the event (or
        ''), verdict ("attempt outcome delay_ms", and behind it JSON members in place of a large result; see settle), data
        (result, error or progress, JSON; '' leaves the progress)
        outcome: beat, completed, failed, rejected, or timeout (from whoever looks after timers: its time is up)
Returns { 'ok', { word, ... } } with a word for each in order: ok, retry, duplicate (this very event before), stale (not the current
        current attempt, or not an agent's), other (another agent's), terminal (the task has ended), missing, early (its time is not up).
        Behind an ok or retry that ended an attempt stand the task's name, how long the attempt took in ms, and whether it was a
        step of a saga or its compensation ('1' or '0'); or { 'schema', found }. O(answers).
]]
local ANSWER_ARGS = 6

-- Whether an attempt's entry stands at or before another's.
local function was_before(attempt, entry, last)
  local last_attempt, last_entry = string.match(last or '', '^(%d+) (%d+%-%d+)$')
  if not last_attempt or entry == '' then return false end
  return attempt < tonumber(last_attempt) or (attempt == tonumber(last_attempt) and not is_later(entry, last_entry))
end

-- Why an answer does not count; nil when it does.
local function objection(ctx, id, h, known, who, event_id, entry, attempt, outcome)
  local agent = known[1]
  if not agent then return AGENT.is_over(h) and h[ATTEMPT] == attempt and 'terminal' or 'stale' end
  if event_id ~= '' and known[2] == event_id then return 'duplicate' end
  if outcome == 'beat' and was_before(attempt, entry, known[3]) then return 'duplicate' end
  if not AGENT.is_self(agent, who) then return 'other' end
  if h[ATTEMPT] ~= attempt then return 'stale' end
  if AGENT.is_over(h) then return 'terminal' end
  if h[STATE] ~= RUNNING or h[OWNER] ~= AGENT.OWNER then return 'stale' end
  if outcome == 'timeout' then
    local timeout_ms = tonumber(known[4]) or 0
    if timeout_ms == 0 or AGENT.left(ctx, h, timeout_ms, known[5]) > 0 then return 'early' end
  end
  return nil
end

local function answer_one(ctx, id, who, event_id, entry, verdict, data)
  local key = task_key(ctx, id)
  local raw = load_record(ctx, id)
  local h = read_header(raw)
  if not h or h[PLACE] == STAGED then return 'missing' end
  local attempt, outcome, delay_ms, extra = string.match(verdict, '^(%d+) (%a+) (%d+) ?(.*)$')
  attempt = tonumber(attempt)
  local own = AGENT.key(ctx, id)
  local known = redis.call('HMGET', own, 'agent', 'r' .. digits(attempt), 'last', 'timeout', 'since')
  local word = objection(ctx, id, h, known, who, event_id, entry, attempt, outcome)
  if word then
    if outcome == 'completed' and (word == 'stale' or word == 'terminal') and known[1] and has(h, IS_STEP) and h[ATTEMPT] >= attempt
      and (h[STATE] == FAILED or h[STATE] == TIMEOUT or h[STATE] == CANCELLED) then
      SAGA.late(ctx, id, raw, h, { read_body(raw) }, data)
    end
    return word
  end
  if entry ~= '' and not was_before(attempt, entry, known[3]) then redis.call('HSET', own, 'last', digits(attempt) .. ' ' .. entry) end
  if outcome == 'beat' then
    redis.call('HSET', own, 'beat', string.format('%d', ctx.now))
    if data ~= '' then redis.call('HSET', own, 'progress', data) end
    return 'ok'
  end
  if event_id ~= '' then
    redis.call('HSET', own, 'r' .. digits(attempt), event_id)
    if attempt > AGENT.ANSWERS_KEPT then redis.call('HDEL', own, 'r' .. digits(attempt - AGENT.ANSWERS_KEPT)) end
  end
  local body = { read_body(raw) }
  AGENT.part(ctx, id, h)
  finish_entry(ctx, stream_of(ctx, h, body[1], body[2]), h[ENTRY_MS], h[ENTRY_SEQ])
  h[LOSSES] = 0
  local about = string.format(' %s %d %s', task_name_of(body[2]), math.max(0, ctx.now - h[STARTED]), (has(h, IS_STEP) or has(h, IS_COMPENSATION)) and '1' or '0')
  if outcome == 'completed' then
    complete_attempt(ctx, id, key, raw, h, body, 'agent:' .. known[1], data, extra)
    return 'ok' .. about
  end
  return fail_attempt(ctx, id, key, raw, h, body, outcome, tonumber(delay_ms), data,
    outcome == 'timeout' and 'timeout' or 'handler_error') .. about
end

local function answer(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local was_full = ctx.max_running > 0 and ctx.count.running >= ctx.max_running
  local words = {}
  for at = 2, #args - ANSWER_ARGS + 1, ANSWER_ARGS do
    words[#words + 1] = answer_one(ctx, unpack(args, at, at + ANSWER_ARGS - 1))
    -- The next may be about the same task.
    flush(ctx)
  end
  follow(ctx, FOLLOW_BUDGET)
  retire(ctx)
  count_rate(ctx)
  AGENT.hand_over(ctx)
  if was_full and ctx.count.running < ctx.max_running then ring(ctx, 'room', '') end
  retire(ctx)
  close(ctx)
  return { 'ok', words }
end

register('answer', answer, DRAINS)
