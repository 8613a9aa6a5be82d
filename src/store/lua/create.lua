--[[
create: makes tasks out of checked triggers, and hands out work for the caller's free slots in the same call.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 check names ('1' or '0')  3 free slots ("0,3")  4 runs any task ('1' or '0')  5 max_wait_ms
        then ten for each task: id, task_name, queue, rank, start ('' or '+delay_ms' or due ms), max_retries,
        group ('' or the workflow's id), cause, created (JSON members of the event), body (see record.lua)
Returns { 'ok', { word, ... }, started } with a word for each task in order: ok, duplicate (exists; nothing changed),
        unknown (no replica has registered the name within the last hour), full (this and all after it must wait);
        or { 'schema', found }. O(tasks).
]]
local CREATE_ARGS = 10
local HANDLER_MEMORY_MS = 3600000

local function create(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local strict = args[2] == '1'
  local count = math.floor((#args - 5) / CREATE_ARGS)
  local ids, existing = {}, {}
  for i = 1, count do ids[i] = args[6 + (i - 1) * CREATE_ARGS] end
  -- One command tells in the common case that none exists; only then is it worth asking for each.
  local present = 0
  for first = 1, count, CHUNK do
    local task_keys = {}
    for i = first, math.min(first + CHUNK - 1, count) do task_keys[#task_keys + 1] = task_key(ctx, ids[i]) end
    present = present + redis.call('EXISTS', unpack(task_keys))
  end
  if present > 0 then
    for i = 1, count do existing[ids[i]] = redis.call('EXISTS', task_key(ctx, ids[i])) == 1 end
  end

  local words, known = {}, {}
  local total = ctx.count.p0 + ctx.count.p1 + ctx.count.p2 + ctx.count.p3 + ctx.count.running
  for i = 1, count do
    local at = 6 + (i - 1) * CREATE_ARGS
    local id, name, queue, rank, when, max_retries, group, cause, created, body = unpack(args, at, at + CREATE_ARGS - 1)
    if strict and known[name] == nil then
      local seen = redis.call('ZSCORE', ctx.prefix .. 'handlers', name)
      known[name] = seen and ctx.now - seen < HANDLER_MEMORY_MS or false
    end
    if existing[id] then
      words[i] = 'duplicate'
    elseif strict and not known[name] then
      words[i] = 'unknown'
    elseif ctx.max_size > 0 and total >= ctx.max_size then
      for rest = i, count do words[rest] = 'full' end
      break
    else
      local h = { PENDING, QUEUED, tonumber(rank), 0, 0, 0, max_retries, 0, 0, 0, NOBODY, 0, ctx.now, 0, 0, #body }
      local run_at = 'null'
      local due
      if when ~= '' then
        local delay = string.match(when, '^%+(%d+)$')
        due = delay and ctx.now + tonumber(delay) or tonumber(when)
        run_at = '"' .. iso(due) .. '"'
      end
      if due and due > ctx.now then
        h[PLACE] = DELAYED
        redis.call('ZADD', ctx.prefix .. 'timers', string.format('%d', due), id)
      else
        enqueue(ctx, id, h, queue)
      end
      local _, head, correlation, trace = string.match(body, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n')
      emit_task(ctx, 'orchestration.task.created', id, h, head, correlation, trace,
        created .. ',"blocked_by":[],"run_at":' .. run_at .. ',"created_at":"' .. ctx.iso .. '"', cause)
      if #body <= SMALL_BYTES then
        local writes = ctx.writes
        writes[#writes + 1] = task_key(ctx, id)
        writes[#writes + 1] = pack_header(h) .. body
      else
        redis.call('SET', task_key(ctx, id), pack_header(h) .. body)
      end
      if group ~= '' then redis.call('RPUSH', ctx.prefix .. 'group:' .. group, id) end
      local field = 'p' .. rank
      ctx.count[field] = ctx.count[field] + 1
      total = total + 1
      existing[id] = true
      words[i] = 'ok'
    end
  end
  local started = take(ctx, { slots = parse_slots(args[3]), any = args[4] == '1', max_wait_ms = tonumber(args[5]) })
  retire(ctx)
  close(ctx)
  return { 'ok', words, started }
end
