--[[
follow: what follows from the ends of tasks: others that waited for them start or are cancelled, and groups end.

A task that many depend on, a large workflow that is told of or stopped, is long work. It is done in items of a bounded
size; what one call does not get to is left in the list `work` and goes on with the next `promote`, by whichever replica.
Items: `r <task> <cursor>` its dependents, `o <group> <cursor>` tells of its tasks, `s <group> <cursor> <cause>\n<members>`
stops them, `a <saga> <cursor>` gives up its steps, `u <saga> 0` looks for the next one to undo, `l <name> 0 <stream> <entry>` counts what runs of a
name whose limit is new, `j <workflow> <cursor>` takes in tasks that carried its id before it was started. Doing a part twice does no harm: each looks at the state of its task first.
]]
-- How many tasks one call may touch on the side: about 20 us each keeps it well under 5 ms.
local FOLLOW_BUDGET = 60
-- How many of those that a task waits for are as much work to tell of as one task.
local BLOCKERS_A_TASK = 30
-- How many of those that a task waits for its created event names; a task may wait for thousands.
local BLOCKERS_SHOWN = 1000
local follow
do
  local PRIORITIES = { [0] = 'HIGH', 'NORMAL', 'LOW', 'BACKGROUND' }

  local function add(queue, item) queue[#queue + 1] = item end

  -- The event that told of a task's end; the dead letter's comes behind it.
  local function end_event(id, h)
    local seq = h[SEQ]
    if h[STATE] == FAILED or h[STATE] == TIMEOUT then seq = seq - 1 end
    return id .. '/' .. digits(seq)
  end

  -- Dependencies of tasks are met: `links` is a list of tasks, each with those that it waited for. A task starts to wait for its
  -- turn after the last, unless its saga has stopped going forward: then that is only written down, for the case that it goes on.
  local function satisfy_all(ctx, links, is_halted)
    local ready, ids = {}, {}
    for _, link in ipairs(links) do
      local key = dependencies_key(ctx, link.child)
      local known = redis.call('HMGET', key, 'left', 'start', unpack(link.parents))
      local change, met = { 'HSET', key, 'left', 0 }, 0
      for i, parent in ipairs(link.parents) do
        local letter = known[i + 2]
        if letter and string.byte(letter) == 49 then
          met = met + 1
          change[#change + 1] = parent
          change[#change + 1] = '0' .. string.sub(letter, 2)
        end
      end
      if met > 0 then
        local left = tonumber(known[1]) - met
        change[4] = left
        if left == 0 and not is_halted then
          ids[#ids + 1] = link.child
          ready[#ready + 1] = { start = known[2], change = change }
        else
          redis.call(unpack(change))
        end
      end
    end
    local keys = task_keys(ctx, ids)
    for i, raw in ipairs(load_records(keys)) do
      local h = read_header(raw)
      local is_blocked = h and h[STATE] == PENDING and h[PLACE] == BLOCKED
      -- Of a task that waits no more nobody asks for whom; but a step may come back to that.
      if not is_blocked or has(h, IS_STEP) then redis.call(unpack(ready[i].change)) end
      if is_blocked then
        local queue = read_queue(raw)
        aside(ctx, queue, h[RANK], -1)
        place(ctx, ids[i], h, queue, due_of(ready[i].start, h[CREATED]))
        save_header(keys[i], h)
      end
    end
  end

  -- What tasks wait for one task alone.
  local function links_to(parent, children)
    local links, parents = {}, { parent }
    for i, child in ipairs(children) do links[i] = { child = child, parents = parents } end
    return links
  end

  -- The dependents of tasks that this very call has completed, all together: most wait for one of them, and one may wait for
  -- all. Those of which there are many are left in the queue. Answers how many were looked at.
  local function release_completed(ctx, queue, parents, budget)
    local links, by_child, done, spent = {}, {}, { 'DEL' }, 0
    for _, parent in ipairs(parents) do
      local list = dependents_key(ctx, parent)
      local children = spent < budget and redis.call('LRANGE', list, 0, budget - spent)
      if not children or #children > budget - spent then
        add(queue, 'r ' .. parent .. ' 0')
      else
        spent = spent + math.max(#children, 1)
        done[#done + 1] = list
        for _, child in ipairs(children) do
          local link = by_child[child]
          if link then
            link.parents[#link.parents + 1] = parent
          else
            link = { child = child, parents = { parent } }
            by_child[child] = link
            links[#links + 1] = link
          end
        end
      end
    end
    satisfy_all(ctx, links)
    if #done > 1 then redis.call(unpack(done)) end
    return spent
  end

  -- The dependents of a task that ended, from a place in their list on; the next place, nil after the last.
  local function release(ctx, id, cursor, budget)
    local raw = load_record(ctx, id)
    local parent = read_header(raw)
    if not parent or parent[STATE] == PENDING or parent[STATE] == RUNNING then return nil, 0 end
    local list = dependents_key(ctx, id)
    local children = redis.call('LRANGE', list, cursor, cursor + budget - 1)
    if parent[STATE] == COMPLETED then
      local group = false
      if has(parent, IS_STEP) then
        local _, _, _, _, saga = read_body(raw)
        group = load_group(ctx, saga)
      end
      satisfy_all(ctx, links_to(id, children), group and group.abort ~= '')
    else
      local root = root_of(raw, parent) or id
      local cause = end_event(id, parent)
      local keys = task_keys(ctx, children)
      local runs = {}
      for i, found in ipairs(load_records(keys)) do
        local h = read_header(found)
        if h and h[STATE] == PENDING and (h[PLACE] == BLOCKED or h[PLACE] == STAGED) then
          if has(h, RUNS_ANYWAY) then
            runs[#runs + 1] = children[i]
          elseif has(h, WAITS_ANYWAY) then
            -- Somebody has to decide; until then it waits.
          elseif h[PLACE] == STAGED then
            redis.call('HSETNX', dependencies_key(ctx, children[i]), 'failed', root .. '\n' .. cause)
          else
            local _, _, _, _, in_group = read_body(found)
            local group = has(h, IN_GROUP) and load_group(ctx, in_group)
            if group and group.stop ~= '' then
              cancel_task(ctx, children[i], found, h, 'workflow_stopped', cause, '')
            else
              cancel_task(ctx, children[i], found, h, 'dependency_failed', cause, '', root)
            end
          end
        end
      end
      satisfy_all(ctx, links_to(id, runs))
    end
    flush(ctx)
    if #children == budget then return cursor + budget, budget end
    if parent[STATE] == COMPLETED then redis.call('DEL', list) end
    return nil, #children
  end

  -- Whom a task waits for, as JSON strings and of very many only some; the root of a failure before; how many there are.
  local function waited_for(ctx, id, h)
    local key = dependencies_key(ctx, id)
    local fields, left, failed
    if has(h, FEW.FLAG) or redis.call('HLEN', key) <= BLOCKERS_SHOWN + 3 then
      fields = redis.call('HGETALL', key)
    else
      local known = redis.call('HMGET', key, 'left', 'failed')
      left, failed = known[1], known[2]
      fields = redis.call('HSCAN', key, 0, 'COUNT', BLOCKERS_SHOWN)[2]
    end
    local blocked = {}
    for at = 1, #fields, 2 do
      local name, value = fields[at], fields[at + 1]
      if name == 'left' then left = value
      elseif name == 'failed' then failed = value
      elseif not OWN_FIELDS[name] and string.byte(value) == 49 then blocked[#blocked + 1] = '"' .. name .. '"' end
    end
    return blocked, failed, tonumber(left)
  end

  -- Tells of a group's tasks from a place in its list on, and lets them wait for what they wait for.
  local function tell(ctx, id, cursor, budget)
    local group = load_group(ctx, id)
    if not group then return nil, 0 end
    local ids = redis.call('LRANGE', ctx.prefix .. 'group:' .. id, cursor, cursor + budget - 1)
    local keys = task_keys(ctx, ids)
    local spent = 0
    for i, raw in ipairs(load_records(keys)) do
      if spent >= budget then
        flush(ctx)
        return cursor + i - 1, budget
      end
      spent = spent + 1
      local h = read_header(raw)
      if h and h[PLACE] == STAGED then
        local task = ids[i]
        local queue, head, correlation, trace = read_body(raw)
        -- What was kept behind the body for this moment.
        local start, members = string.match(raw, '^([^\n]*)\n(.*)$', HEADER_BYTES + h[BODY] + 1)
        local blocked, failed, left = {}, nil, 0
        if has(h, HAS_DEPENDENCIES) then blocked, failed, left = waited_for(ctx, task, h) end
        spent = spent + math.floor(#blocked / BLOCKERS_A_TASK)
        h[CREATED] = ctx.now
        h[SEQ] = 1
        local due = due_of(start, ctx.now)
        emit(ctx, 'orchestration.task.created', task, 1, correlation, group.cause,
          '{"task_id":"' .. task .. '",' .. head .. ',"attempt":0,"priority":"' .. PRIORITIES[h[RANK]] .. '","queue":"' .. queue ..
          '",' .. members .. ',"blocked_by":[' .. table.concat(blocked, ',') .. '],"run_at":' ..
          (due and '"' .. iso(due) .. '"' or 'null') .. ',"created_at":"' .. ctx.iso .. '"}', trace)
        local field = WAITING[h[RANK]]
        ctx.count[field] = ctx.count[field] + 1
        ctx.count.opening = ctx.count.opening - 1
        if failed or left > 0 then
          h[PLACE] = BLOCKED
          aside(ctx, queue, h[RANK], 1)
        else
          place(ctx, task, h, queue, due)
        end
        if failed then
          local root, cause = string.match(failed, '^([^\n]*)\n(.*)$')
          raw = string.sub(raw, 1, HEADER_BYTES + h[BODY])
          if #raw > SMALL_BYTES then redis.call('SET', keys[i], raw) end
          cancel_task(ctx, task, raw, h, 'dependency_failed', cause, '', root)
        elseif #raw <= SMALL_BYTES then
          save(ctx, keys[i], raw, h)
        else
          redis.call('SET', keys[i], pack_header(h) .. string.sub(raw, HEADER_BYTES + 1, HEADER_BYTES + h[BODY]))
        end
      end
    end
    flush(ctx)
    if #ids == budget then return cursor + budget, budget end
    return nil, spent
  end

  -- Stops a group's tasks from a place in its list on. What is not told of yet is met again later.
  local function stop(ctx, id, cursor, budget, rest)
    local cause, members = string.match(rest, '^([^\n]*)\n(.*)$')
    if cause == '' then cause = nil end
    local ids = redis.call('LRANGE', ctx.prefix .. 'group:' .. id, cursor, cursor + budget - 1)
    for i, raw in ipairs(load_records(task_keys(ctx, ids))) do
      local h = read_header(raw)
      if h and h[PLACE] == STAGED then return cursor + i - 1, i end
      if h and (h[STATE] == PENDING or h[STATE] == RUNNING) then
        cancel_task(ctx, ids[i], raw, h, 'workflow_stopped', cause, members)
      end
    end
    flush(ctx)
    if #ids == budget then return cursor + budget, budget end
    return nil, #ids
  end

  -- Ends a workflow after its last task. What failed counts before a stop.
  local function finish(ctx, group, cause)
    if group.kind ~= 'workflow' or group.state ~= 'R' or group.left > 0 then return end
    local kind = 'completed'
    if group.failed + group.timeout > 0 then kind = 'failed'
    elseif group.stop ~= '' then kind = 'cancelled'
    elseif group.root ~= '' then kind = 'failed' end
    group.state = ({ completed = 'C', failed = 'F', cancelled = 'X' })[kind]
    group.finished_ms = ctx.now
    emit_group(ctx, group, 'orchestration.workflow.' .. kind, string.format(
      '"total_tasks":%d,"counts":%s,"root_cause_task_id":%s,"duration_ms":%d', group.total, state_counts(group),
      group.root ~= '' and '"' .. group.root .. '"' or 'null', math.max(0, ctx.now - group.created_ms)), cause)
  end

  -- Takes in what carried a workflow's id before it was started, and has not ended: two replicas may read the start and a trigger
  -- that joins it in either order. Until all were looked at, one more counts as left, so that it does not end before.
  local function take_in(ctx, id, cursor, budget)
    local group = load_group(ctx, id)
    if not group or group.state ~= 'R' then return nil, 0 end
    local last = math.min(cursor + budget, group.first)
    local ids = cursor < last and redis.call('LRANGE', ctx.prefix .. 'group:' .. id, cursor, last - 1) or {}
    local keys = task_keys(ctx, ids)
    for i, raw in ipairs(load_records(keys)) do
      local h = read_header(raw)
      if h and (h[STATE] == PENDING or h[STATE] == RUNNING) and not has(h, IN_GROUP) then
        set_flag(h, IN_GROUP)
        save_header(keys[i], h)
        group.total = group.total + 1
        group.left = group.left + 1
      end
    end
    if last < group.first then return last, #ids end
    group.left = group.left - 1
    finish(ctx, group, group.cause)
    return nil, #ids
  end

  -- What an end means for the task's group and for those who wait for it.
  local function note(ctx, queue, ending, touched, completed)
    local flags = ending.flags
    if bit.band(flags, IN_GROUP) ~= 0 then
      local group = load_group(ctx, ending.group)
      if group and group.kind == 'saga' then
        SAGA.ended(ctx, queue, group, ending, end_event(ending.id, ending.h))
      elseif group and group.state == 'R' then
        count_group(group, ending)
        if group.root == '' then
          if ending.state == FAILED or ending.state == TIMEOUT then group.root = ending.id
          elseif ending.root then group.root = ending.root end
        end
        touched[group] = ending
      end
    end
    if bit.band(flags, HAS_DEPENDENTS) == 0 then return end
    local is_step = bit.band(flags, IS_STEP) ~= 0
    if ending.state == COMPLETED and not is_step then
      completed[#completed + 1] = ending.id
    elseif ending.state == COMPLETED or not is_step then
      add(queue, 'r ' .. ending.id .. ' 0')
    end
  end

  local DEEDS = { r = release, o = tell, s = stop, a = SAGA.swept, u = SAGA.undone, l = LIMIT.count, j = take_in }

  -- Does what follows from the gathered ends and from `ctx.work`, as far as the budget goes.
  follow = function(ctx, budget)
    local queue = ctx.work or {}
    if #ctx.endings == 0 and #queue == 0 then return end
    ctx.work = nil
    flush(ctx)
    local at, touched = 1, {}
    while true do
      while #ctx.endings > 0 do
        local endings, completed = ctx.endings, {}
        ctx.endings = {}
        for _, ending in ipairs(endings) do note(ctx, queue, ending, touched, completed) end
        if #completed > 0 then budget = budget - release_completed(ctx, queue, completed, budget) end
      end
      local item = queue[at]
      if not item or budget <= 0 then break end
      local deed, subject, cursor, rest = string.match(item, '^(%a) (%S+) (%d+) ?(.*)$')
      local next_cursor, spent, next_rest = DEEDS[deed](ctx, subject, tonumber(cursor), budget, rest)
      budget = budget - math.max(spent, 1)
      if next_cursor then
        -- To the end of the line: what it waits for may stand behind it.
        add(queue, string.format('%s %s %d %s', deed, subject, next_cursor, next_rest or rest))
        if deed == 's' and next_cursor == tonumber(cursor) then budget = 0 end
      end
      at = at + 1
    end
    flush(ctx)
    for group, last in pairs(touched) do finish(ctx, group, end_event(last.id, last.h)) end
    if at <= #queue then
      for first = at, #queue, CHUNK do
        redis.call('RPUSH', ctx.prefix .. 'work', unpack(queue, first, math.min(first + CHUNK - 1, #queue)))
      end
      ctx.count.backlog = ctx.count.backlog + #queue - at + 1
      ring(ctx, 'work', '')
    end
  end
end
