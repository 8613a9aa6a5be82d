--[[
cancel: stops tasks that are not terminal, wherever they wait or run.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 reason (a code)  3 cause (event_id of the command, or '')  4 members (JSON members for the event,
        each with a leading comma, or '')  5... task ids
Returns { 'ok', { word, ... } } with a word for each id in order: ok (also when this same command did it before),
        terminal (ended before; nothing changed), missing; or { 'schema', found }. A running task is cancelled at once; the bell tells its owner to abort the handler.
        O(tasks).
]]
-- What stands behind the body of a cancelled task; it names the command, so that a second delivery is known as one.
local function cancel_note(reason, cause)
  return '{"type":"cancelled","message":"' .. reason .. '","command":' .. (cause and cjson.encode(cause) or 'null') .. '}'
end

local function cancel_task(ctx, id, raw, h, reason, cause, members)
  local queue, head, correlation, trace = read_body(raw)
  if h[STATE] == RUNNING then
    finish_entry(ctx, stream_of(ctx, h, queue, head), h[ENTRY_MS], h[ENTRY_SEQ])
    ctx.count.running = ctx.count.running - 1
    ring(ctx, 'cancel', id)
  else
    local field = 'p' .. h[RANK]
    ctx.count[field] = ctx.count[field] - 1
    if h[PLACE] == DELAYED then
      redis.call('ZREM', ctx.prefix .. 'timers', id)
    else
      if h[PLACE] == PARKED then ctx.count.parked = ctx.count.parked - 1 end
      redis.call('XDEL', stream_of(ctx, h, queue, head), entry_id(h))
    end
  end
  count_end(ctx, h, CANCELLED)
  emit_task(ctx, 'orchestration.task.cancelled', id, h, head, correlation, trace,
    '"reason":"' .. reason .. '","root_cause_task_id":null' .. members, cause)
  save(ctx, id, raw, h, cancel_note(reason, cause))
end

local function cancel(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local reason, cause, members = args[2], args[3], args[4]
  if cause == '' then cause = nil end
  local ids, words, seen = {}, {}, {}
  for i = 5, #args do ids[#ids + 1] = args[i] end
  local records = load_records(ctx, ids)
  for i, id in ipairs(ids) do
    local h = read_header(records[i])
    if not h then
      words[i] = 'missing'
    elseif cause and (seen[id] or h[STATE] == CANCELLED
      and string.sub(records[i], HEADER_BYTES + h[BODY] + 1) == cancel_note(reason, cause)) then
      words[i] = 'ok'
    elseif seen[id] or (h[STATE] ~= PENDING and h[STATE] ~= RUNNING) then
      words[i] = 'terminal'
    else
      seen[id] = true
      cancel_task(ctx, id, records[i], h, reason, cause, members)
      words[i] = 'ok'
    end
  end
  retire(ctx)
  count_rate(ctx)
  close(ctx)
  return { 'ok', words }
end
