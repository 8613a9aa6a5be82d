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
local function cancel(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local reason, cause, members = args[2], args[3], args[4]
  if cause == '' then cause = nil end
  local ids, words, seen = {}, {}, {}
  for i = 5, #args do ids[#ids + 1] = args[i] end
  local records = load_records(task_keys(ctx, ids))
  for i, id in ipairs(ids) do
    local h = read_header(records[i])
    if not h or h[PLACE] == STAGED then
      words[i] = 'missing'
    elseif cause and (seen[id] or h[STATE] == CANCELLED
      and string.sub(records[i], HEADER_BYTES + h[BODY] + 1) == cancel_note(reason, cause)) then
      words[i] = 'ok'
    elseif seen[id] or (h[STATE] ~= PENDING and h[STATE] ~= RUNNING) then
      words[i] = 'terminal'
    elseif h[STATE] == RUNNING and has(h, IS_STEP) then
      -- The step of a saga has ended only when its handler has: the saga turns round, and with it the handler is told.
      seen[id] = true
      local _, _, _, _, saga = read_body(records[i])
      local group = load_group(ctx, saga)
      words[i] = group and SAGA.cancelled(ctx, group, cause, members) or 'missing'
      if words[i] == 'passed' then
        cancel_task(ctx, id, records[i], h, reason, cause, members)
        words[i] = 'ok'
      end
    else
      seen[id] = true
      cancel_task(ctx, id, records[i], h, reason, cause, members)
      words[i] = 'ok'
    end
  end
  follow(ctx, FOLLOW_BUDGET)
  AGENT.hand_over(ctx)
  retire(ctx)
  count_rate(ctx)
  close(ctx)
  return { 'ok', words }
end

register('cancel', cancel, DRAINS)
