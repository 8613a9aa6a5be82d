--[[
saga: a group with a way back.

Its steps are tasks; what undoes them is kept in the hash `s:<saga>` from the start, ready to be written, so that any
call that ends a step can go on alone. Fields: `i<task>` and `c<task>` the number of the step that a task carries out or
undoes; for step number n: `n<n>` its name, `f<n>` its task, `p<n>` is there on the pivot, `k<n>` how to undo it ("task
\n routing \n payload \n body", missing where nothing undoes it), `z<n>` what became of it (C completed, D in doubt, X
compensated, U not), `o<n>` is there when it completed, `t<n>` the task that undoes it, `m<n>` when it was undone.
The list `e:<saga>` holds the steps to undo in the order of their ends, `u:<saga>` those whose undoing failed.

States of the group: P pending, R running, C completed, G compensating, B compensated, F failed. `abort` says why it goes
back: failed or cancelled. Behind the pivot (`passed`) it does not.
]]
local step_started, saga_ended, saga_swept, saga_told, saga_cancelled, saga_resumed
do
  local function steps_key(ctx, saga) return ctx.prefix .. 's:' .. saga end

  local function quoted(text) return '"' .. text .. '"' end

  -- The names of the steps for which `wanted` holds, as JSON.
  local function names_json(names) return '[' .. table.concat(names, ',') .. ']' end

  local function step_members(name, number, task)
    return '"step":"' .. name .. '","index":' .. number .. ',"task_id":' .. (task and quoted(task) or 'null')
  end

  saga_told = function(ctx, group)
    emit_group(ctx, group, 'orchestration.saga.started', '"total_steps":' .. digits(group.total), group.cause)
  end

  step_started = function(ctx, id, saga, step)
    local group = load_group(ctx, saga)
    if not group then return end
    if group.state == 'P' then group.state = 'R' end
    local number = redis.call('HGET', steps_key(ctx, saga), 'i' .. id)
    emit_group(ctx, group, 'orchestration.saga.step_started', step_members(step, number, id), nil)
  end

  -- Ends the saga: completed, or as far back as it got.
  local function finish(ctx, group, cause)
    local key, done, undone, left_over = steps_key(ctx, group.id), {}, {}, {}
    for number = 0, group.total - 1 do
      local known = redis.call('HMGET', key, 'n' .. number, 'o' .. number, 'z' .. number)
      local name = quoted(known[1])
      if known[2] then done[#done + 1] = name end
      if known[3] == 'X' then undone[#undone + 1] = name end
      if known[3] == 'U' then left_over[#left_over + 1] = name end
    end
    local kind
    if group.abort == '' then kind, group.state = 'completed', 'C'
    elseif #left_over > 0 or group.passed ~= '' then kind, group.state = 'failed', 'F'
    else kind, group.state = 'compensated', 'B' end
    group.finished_ms = ctx.now
    emit_group(ctx, group, 'orchestration.saga.' .. kind, string.format(
      '"completed_steps":%s,"compensated_steps":%s,"uncompensated_steps":%s,"failed_step":%s,"duration_ms":%d',
      names_json(done), names_json(undone), names_json(left_over),
      group.failed_step ~= '' and quoted(group.failed_step) or 'null', math.max(0, ctx.now - group.created_ms)), cause)
  end

  -- Lets a compensation wait for its turn: made now, or given another life after it had failed.
  local function start_undoing(ctx, group, number, forward, name, recipe, cause)
    local id, routing, payload, body = string.match(recipe, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
    local key = task_key(ctx, id)
    local raw = redis.call('GET', key)
    if raw then
      local h = read_header(raw)
      if h[STATE] ~= FAILED and h[STATE] ~= TIMEOUT and h[STATE] ~= CANCELLED then return id end
      revive(ctx, id, raw, h, cause, ctx.actor or 'null')
      return id
    end
    local queue, rank, max_retries = string.match(routing, '^(%S+) (%d) (%d+)$')
    local h = { PENDING, QUEUED, tonumber(rank), 0, IN_GROUP + IS_COMPENSATION + HAS_DEPENDENCIES, 0, 0,
      tonumber(max_retries), 1, 0, 0, NOBODY, 0, ctx.now, 0, 0, #body }
    enqueue(ctx, id, h, queue)
    redis.call('SET', key, pack_header(h) .. body)
    redis.call('HSET', dependencies_key(ctx, id), 'left', 0, forward, '0' .. name)
    redis.call('RPUSH', ctx.prefix .. 'group:' .. group.id, id)
    redis.call('HSET', steps_key(ctx, group.id), 't' .. number, id)
    local _, _, correlation, trace = read_body(pack_header(h) .. body)
    emit(ctx, 'orchestration.task.created', id, 1, correlation, cause,
      payload .. ',"blocked_by":[],"run_at":null,"created_at":"' .. ctx.iso .. '"}', trace)
    local field = WAITING[h[RANK]]
    ctx.count[field] = ctx.count[field] + 1
    return id
  end

  -- Undoes the step that ended last, of those that are left; ends the saga behind the first.
  local function undo_next(ctx, group, cause)
    local key = steps_key(ctx, group.id)
    while true do
      local number = redis.call('RPOP', ctx.prefix .. 'e:' .. group.id)
      if not number then return finish(ctx, group, cause) end
      local known = redis.call('HMGET', key, 'n' .. number, 'f' .. number, 'k' .. number)
      if known[3] then
        start_undoing(ctx, group, number, known[2], known[1], known[3], cause)
        return
      end
      redis.call('HSET', key, 'z' .. number, 'X', 'm' .. number, string.format('%d', ctx.now))
      emit_group(ctx, group, 'orchestration.saga.step_compensated', step_members(known[1], number, nil), cause)
    end
  end

  -- Turns round, once no step runs any more.
  local function turn_round(ctx, group, cause)
    if group.passed ~= '' then return finish(ctx, group, cause) end
    local names = {}
    local ends = redis.call('LRANGE', ctx.prefix .. 'e:' .. group.id, 0, -1)
    for i = #ends, 1, -1 do
      names[#names + 1] = quoted(redis.call('HGET', steps_key(ctx, group.id), 'n' .. ends[i]))
    end
    group.state = 'G'
    emit_group(ctx, group, 'orchestration.saga.compensating', '"failed_step":' ..
      (group.failed_step ~= '' and quoted(group.failed_step) or 'null') .. ',"steps_to_compensate":' .. names_json(names), cause)
    undo_next(ctx, group, cause)
  end

  -- What the end of one of its tasks means for a saga.
  saga_ended = function(ctx, queue, group, ending, cause)
    local key, id, name = steps_key(ctx, group.id), ending.id, ending.step
    if bit.band(ending.flags, IS_COMPENSATION) ~= 0 then
      local number = redis.call('HGET', key, 'c' .. id)
      if group.state ~= 'G' or not number then return end
      if ending.state == COMPLETED then
        redis.call('HSET', key, 'z' .. number, 'X', 'm' .. number, string.format('%d', ctx.now))
        emit_group(ctx, group, 'orchestration.saga.step_compensated', step_members(name, number, id), cause)
      else
        redis.call('HSET', key, 'z' .. number, 'U')
        redis.call('RPUSH', ctx.prefix .. 'u:' .. group.id, number)
        emit_group(ctx, group, 'orchestration.saga.step_compensation_failed',
          step_members(name, number, id) .. ',"error":' .. (ending.data or 'null'), cause)
      end
      return undo_next(ctx, group, cause)
    end
    if group.state ~= 'R' and group.state ~= 'P' then return end
    local number = redis.call('HGET', key, 'i' .. id)
    count_group(group, ending)
    if ending.state == COMPLETED then
      redis.call('HSET', key, 'z' .. number, 'C', 'o' .. number, '1')
      redis.call('RPUSH', ctx.prefix .. 'e:' .. group.id, number)
      emit_group(ctx, group, 'orchestration.saga.step_completed', step_members(name, number, id) .. ',"result":' .. ending.data,
        cause)
      if redis.call('HEXISTS', key, 'p' .. number) == 1 then group.passed = '1' end
    else
      if bit.band(ending.flags, IN_DOUBT) ~= 0 then
        redis.call('HSET', key, 'z' .. number, 'D')
        redis.call('RPUSH', ctx.prefix .. 'e:' .. group.id, number)
      end
      if ending.state ~= CANCELLED or bit.band(ending.flags, IN_DOUBT) ~= 0 then
        emit_group(ctx, group, 'orchestration.saga.step_failed', step_members(name, number, id) .. ',"error":' ..
          (ending.data or '{"type":"cancelled","message":"the saga was given up"}'), cause)
      end
      if group.abort == '' then
        group.abort = ending.state == CANCELLED and 'cancelled' or 'failed'
        group.failed_step = ending.state == CANCELLED and '' or name
        group.root = id
        if group.left > 0 then queue[#queue + 1] = 'a ' .. group.id .. ' 0' end
      end
    end
    if group.left > 0 then return end
    if group.abort == '' then finish(ctx, group, cause) else turn_round(ctx, group, cause) end
  end

  -- Gives up the steps that have not started, from a place in the list on.
  saga_swept = function(ctx, id, cursor, budget)
    local group = load_group(ctx, id)
    if not group or group.left == 0 then return nil, 0 end
    local ids = redis.call('LRANGE', ctx.prefix .. 'group:' .. id, cursor, cursor + budget - 1)
    for i, raw in ipairs(load_records(task_keys(ctx, ids))) do
      local h = read_header(raw)
      if h and h[PLACE] == STAGED then return cursor + i - 1, i end
      if h and has(h, IS_STEP) then
        if h[STATE] == PENDING then
          cancel_task(ctx, ids[i], raw, h, 'saga_aborted', nil, '', group.root ~= '' and group.root or nil)
        elseif h[STATE] == RUNNING and group.abort == 'cancelled' then
          -- Its handler is told; the step has ended when the handler has.
          ring(ctx, 'abort', ids[i])
        end
      end
    end
    flush(ctx)
    if #ids == budget then return cursor + budget, budget end
    return nil, #ids
  end

  saga_cancelled = function(ctx, group)
    if group.state ~= 'P' and group.state ~= 'R' then return group.state == 'G' and 'ok' or 'terminal' end
    if group.passed ~= '' then return 'passed' end
    if group.abort == '' then
      group.abort = 'cancelled'
      add_work(ctx, 'a ' .. group.id .. ' 0')
    end
    return 'ok'
  end

  saga_resumed = function(ctx, group, actor)
    if group.state == 'G' then return 'ok' end
    if group.state ~= 'F' or group.passed ~= '' then return 'terminal' end
    local from, to = ctx.prefix .. 'u:' .. group.id, ctx.prefix .. 'e:' .. group.id
    -- They failed in the order in which they are to be undone.
    while true do
      local number = redis.call('RPOP', from)
      if not number then break end
      redis.call('RPUSH', to, number)
    end
    group.state = 'G'
    ctx.actor = actor
    emit_group(ctx, group, 'orchestration.saga.resumed', '"actor":' .. actor, nil)
    undo_next(ctx, group, nil)
    return 'ok'
  end
end
