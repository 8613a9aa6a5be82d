--[[
group: what a workflow and a saga have in common: tasks that belong together, and a record of the whole.

The record is the hash `w:<id>`. A call reads it once, changes its copy, and `close` writes back what changed. Tasks
that only carry the name of a workflow nobody started have no such record. The ids of all tasks of a group stand in the
list `group:<id>` in the order in which they came; `keys:<id>` maps the caller's own names for them to their ids. The hash
`groups` counts for the metrics: `workflow` and `saga` those under way, `saga failed` and the like how often one ended so.
]]
-- The counter of each way to end.
local ENDED = { [COMPLETED] = 'completed', [FAILED] = 'failed', [TIMEOUT] = 'timeout', [CANCELLED] = 'cancelled' }

local load_group, count_group, emit_group, place, state_counts, stop_words
do
  local FIELDS = {
    'kind', 'state', 'name', 'seq', 'total', 'left', 'completed', 'failed', 'timeout', 'cancelled', 'policy',
    'priority', 'correlation', 'cause', 'trace', 'created_ms', 'finished_ms', 'root', 'stop', 'abort', 'passed', 'failed_step', 'identity',
    'first',
  }
  local NUMBERS = { seq = 1, total = 1, left = 1, completed = 1, failed = 1, timeout = 1, cancelled = 1, created_ms = 1,
    finished_ms = 1, first = 1 }

  -- A group's record as a table of its fields, false where there is none.
  load_group = function(ctx, id)
    local group = ctx.groups[id]
    if group ~= nil then return group end
    local values = redis.call('HMGET', ctx.prefix .. 'w:' .. id, unpack(FIELDS))
    if not values[1] then
      ctx.groups[id] = false
      return false
    end
    group = { id = id, before = {} }
    for i, field in ipairs(FIELDS) do
      local value = values[i] or ''
      if NUMBERS[field] then value = tonumber(value) or 0 end
      group[field], group.before[field] = value, value
    end
    ctx.groups[id] = group
    return group
  end

  -- What the events of a group add to those under way.
  local UNDER_WAY = { started = 1, resumed = 1, completed = -1, failed = -1, cancelled = -1, compensated = -1 }

  local function count_event(ctx, kind)
    local of, what = string.match(kind, '^orchestration%.(%a+)%.(%a+)$')
    local change = UNDER_WAY[what]
    if not change then return end
    redis.call('HINCRBY', ctx.prefix .. 'groups', of, change)
    if change < 0 then redis.call('HINCRBY', ctx.prefix .. 'groups', of .. ' ' .. what, 1) end
  end

  -- Appends an event of the group itself.
  emit_group = function(ctx, group, kind, members, cause)
    group.seq = group.seq + 1
    count_event(ctx, kind)
    local head = group.kind == 'saga' and '{"saga_id":"' or '{"workflow_id":"'
    emit(ctx, kind, group.id, group.seq, group.correlation, cause,
      head .. group.id .. '","name":' .. group.name .. ',' .. members .. '}', group.trace)
  end

  -- The counts of a group's tasks by state, as JSON; what has not ended is not told apart.
  state_counts = function(group)
    return string.format('{"PENDING":%d,"RUNNING":0,"COMPLETED":%d,"FAILED":%d,"TIMEOUT":%d,"CANCELLED":%d}', group.left,
      group.completed, group.failed, group.timeout, group.cancelled)
  end

  -- Counts the end of one of a group's tasks.
  count_group = function(group, ending)
    local name = ENDED[ending.state]
    group.left = group.left - 1
    group[name] = group[name] + 1
  end

  -- What whoever stopped a group said, as a member of an event.
  stop_words = function(group) return group and string.match(group.stop, '^[^\n]*\n(.*)$') or '' end

  -- Puts a task that waits for no other task where it waits for its time or its turn.
  place = function(ctx, id, h, queue, due)
    if due and due > ctx.now then
      h[PLACE] = DELAYED
      aside(ctx, queue, h[RANK], 1)
      CLOCK.set_timer(ctx, id, due)
    else
      enqueue(ctx, id, h, queue)
    end
  end
end

-- Leaves long work for `follow` to do.
local function add_work(ctx, item)
  local work = ctx.work or {}
  work[#work + 1] = item
  ctx.work = work
end

-- A due time from text: '-' (now), '+delay_ms' from `from_ms` on, or ms since the epoch.
local function due_of(text, from_ms)
  if not text or text == '-' then return nil end
  local delay = string.match(text, '^%+(%d+)$')
  return delay and from_ms + tonumber(delay) or tonumber(text)
end

--[[
What a task depends on is the hash `d:<id>`: for each task a letter, '1' while it is waited for and '0' after, with the
name of the input behind it; `left`, how many are waited for; `start`, when it may start; `failed`, the root of the
failure that came before the task was told of. Letters and not a number alone, so that an end that is told twice counts
once. The reverse, `n:<id>`, lists the tasks that depend on one.
]]
local function dependencies_key(ctx, id) return ctx.prefix .. 'd:' .. id end

local function dependents_key(ctx, id) return ctx.prefix .. 'n:' .. id end

local OWN_FIELDS = { left = true, start = true, failed = true }

-- With more inputs than this a call hands a task none out.
local INPUTS_MAX = 16

-- The flag of a record that says that it has so few dependencies that nobody need count them first, where it has.
local FEW = { FLAG = 1024 }
function FEW.of(count) return count <= INPUTS_MAX and FEW.FLAG or 0 end

local read_inputs
do
  -- The same of a saga's step, which gets the results of all steps before it.
  local STEP_INPUTS_MAX = 64

  -- The numbers of the steps that come before one: `a<n>`, where it is not all that stand before it.
  local function steps_before(listed, number)
    local numbers = {}
    if listed then
      for one in string.gmatch(listed, '%d+') do numbers[#numbers + 1] = one end
    else
      for one = 0, number - 1 do numbers[#numbers + 1] = one end
    end
    return numbers
  end

  -- What those get that come behind a task: its result; of a step that was given up, the one that its late success carried.
  local function result_of(ctx, id, raw)
    local h = read_header(raw)
    if h and h[STATE] == COMPLETED then return string.sub(raw, HEADER_BYTES + h[BODY] + 1) end
    if not h or not has(h, IS_STEP) then return 'null' end
    local _, _, _, _, saga = read_body(raw)
    local key = ctx.prefix .. 's:' .. saga
    local number = redis.call('HGET', key, 'i' .. id)
    return number and redis.call('HGET', key, 'r' .. number) or 'null'
  end

  -- The results of all steps before a saga's.
  local function read_step_inputs(ctx, id, saga, limit)
    local key = ctx.prefix .. 's:' .. saga
    local number = redis.call('HGET', key, 'i' .. id)
    local numbers = steps_before(redis.call('HGET', key, 'a' .. number), tonumber(number))
    if #numbers > (limit or STEP_INPUTS_MAX) then return nil end
    local fields, ids, inputs = {}, {}, {}
    if #numbers == 0 then return inputs end
    for i, one in ipairs(numbers) do
      fields[2 * i - 1] = 'n' .. one
      fields[2 * i] = 'f' .. one
    end
    local known = redis.call('HMGET', key, unpack(fields))
    for i = 2, #known, 2 do ids[#ids + 1] = known[i] end
    for i, raw in ipairs(load_records(task_keys(ctx, ids))) do
      local h = read_header(raw)
      inputs[2 * i - 1] = known[2 * i - 1]
      inputs[2 * i] = h and h[STATE] == COMPLETED and string.sub(raw, HEADER_BYTES + h[BODY] + 1) or 'null'
    end
    return inputs
  end

  -- The results of what a task depends on: names and JSON in turn; nil when they are too many for one call, or for `limit`.
  read_inputs = function(ctx, id, h, group, limit)
    if has(h, IS_STEP) then return read_step_inputs(ctx, id, group, limit) end
    local key = dependencies_key(ctx, id)
    if not has(h, FEW.FLAG) and redis.call('HLEN', key) > (limit or INPUTS_MAX) + 3 then return nil end
    local fields, ids, names = redis.call('HGETALL', key), {}, {}
    for i = 1, #fields, 2 do
      if not OWN_FIELDS[fields[i]] then
        ids[#ids + 1] = fields[i]
        names[#names + 1] = string.sub(fields[i + 1], 2)
      end
    end
    -- Many tasks of a call may depend on the same one, and most on one that this very call has completed.
    local results, missing = ctx.results, {}
    for _, one in ipairs(ids) do
      if not results[one] then missing[#missing + 1] = one end
    end
    for i, raw in ipairs(load_records(task_keys(ctx, missing))) do
      results[missing[i]] = result_of(ctx, missing[i], raw)
    end
    local inputs = {}
    for i, one in ipairs(ids) do
      inputs[2 * i - 1] = names[i]
      inputs[2 * i] = results[one]
    end
    return inputs
  end
end
