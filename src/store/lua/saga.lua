--[[
saga: a group with a way back.

Its steps are tasks; what undoes them is kept in the hash `s:<saga>` from the start, ready to be written, so that any
call that ends a step can go on alone. Fields: `i<task>` and `c<task>` the number of the step that a task carries out or
undoes; `pivot` the name of the pivot; for step number n: `n<n>` its name, `f<n>` its task, `p<n>` is there on the pivot, `k<n>` how to undo it ("task
\n routing \n payload \n body", missing where nothing undoes it), `z<n>` what became of it (C completed, D in doubt, X
compensated, U not), `o<n>` the place of its end among those that completed, `t<n>` the task that undoes it, `m<n>` when it was
undone, `q<n>` the place of its verdict (X or U) among those of the way back, which `verdicts` counts, `l<n>` is there when a
success of it was reported after it had been given up, and `r<n>` the result that came with it.
The list `e:<saga>` holds the steps to undo in the order of their ends, `u:<saga>` those whose undoing failed.

States of the group: P pending, R running, C completed, G compensating, B compensated, F failed. `abort` says why it goes
back: failed or cancelled. Behind the pivot (`passed`) it does not. `stop` is the command that asked for the way back, with
the members that its events carry in the lines behind it.
]]
-- In one table, since Lua knows no more than 200 locals.
local SAGA = {}
do
  -- How many steps that nothing undoes one call passes over, on the way back.
  local UNDO_LOOKS = 100

  local function steps_key(ctx, saga) return ctx.prefix .. 's:' .. saga end

  local function quoted(text) return '"' .. text .. '"' end

  local function names_json(names) return '[' .. table.concat(names, ',') .. ']' end

  local function step_members(name, number, task)
    return '"step":"' .. name .. '","index":' .. number .. ',"task_id":' .. (task and quoted(task) or 'null')
  end

  local function failed_member(group)
    return '"failed_step":' .. (group.failed_step ~= '' and quoted(group.failed_step) or 'null')
  end

  -- One field of each step of a list of numbers, in order; false where a step has none.
  local function fields_of(ctx, group, letter, numbers)
    local values = {}
    for first = 1, #numbers, CHUNK do
      local fields = {}
      for at = first, math.min(first + CHUNK - 1, #numbers) do fields[#fields + 1] = letter .. numbers[at] end
      for i, value in ipairs(redis.call('HMGET', steps_key(ctx, group.id), unpack(fields))) do values[first + i - 1] = value end
    end
    return values
  end

  SAGA.told = function(ctx, group)
    local pivot = redis.call('HGET', steps_key(ctx, group.id), 'pivot')
    emit_group(ctx, group, 'orchestration.saga.started',
      '"total_steps":' .. digits(group.total) .. ',"pivot":' .. (pivot and quoted(pivot) or 'null'), group.cause)
  end

  SAGA.step_started = function(ctx, id, saga, step)
    local group = load_group(ctx, saga)
    if not group then return end
    if group.state == 'P' then group.state = 'R' end
    local number = redis.call('HGET', steps_key(ctx, saga), 'i' .. id)
    emit_group(ctx, group, 'orchestration.saga.step_started', step_members(step, number, id), nil)
  end

  -- The numbers of all steps, as text.
  local function all_numbers(group)
    local numbers = {}
    for number = 0, group.total - 1 do numbers[number + 1] = digits(number) end
    return numbers
  end

  -- Names of steps by the place that each has in a list, where what is known of it is what is wanted; any when that is nil.
  local function names_by_place(names, places, known, wanted)
    local found, sorted = {}, {}
    for i = 1, #names do
      if known[i] and (not wanted or known[i] == wanted) then found[#found + 1] = i end
    end
    table.sort(found, function(one, other)
      local first, second = tonumber(places[one]) or 0, tonumber(places[other]) or 0
      if first == second then return one < other end
      return first < second
    end)
    for i, at in ipairs(found) do sorted[i] = quoted(names[at]) end
    return sorted
  end

  -- Ends the saga: completed, or as far back as it got. Its lists of steps are in the order in which things happened.
  local function finish(ctx, group, cause)
    local numbers = all_numbers(group)
    local names = fields_of(ctx, group, 'n', numbers)
    local ends, verdicts = fields_of(ctx, group, 'o', numbers), fields_of(ctx, group, 'q', numbers)
    local fates = fields_of(ctx, group, 'z', numbers)
    local done = names_by_place(names, ends, ends)
    local undone, left_over = names_by_place(names, verdicts, fates, 'X'), names_by_place(names, verdicts, fates, 'U')
    local kind
    if group.abort == '' then kind, group.state = 'completed', 'C'
    elseif #left_over > 0 or group.passed ~= '' then kind, group.state = 'failed', 'F'
    else kind, group.state = 'compensated', 'B' end
    group.finished_ms = ctx.now
    emit_group(ctx, group, 'orchestration.saga.' .. kind, string.format(
      '"completed_steps":%s,"compensated_steps":%s,"uncompensated_steps":%s,%s,"duration_ms":%d',
      names_json(done), names_json(undone), names_json(left_over), failed_member(group),
      math.max(0, ctx.now - group.created_ms)), cause)
  end

  -- The id of a compensation that is done once more, as its step turned out to have succeeded after it was undone. Its
  -- partition is in the last digits, which stay.
  local function next_id(id, times) return string.format('%08x', times) .. string.sub(id, 9) end

  -- Lets a compensation wait for its turn: made now, or given another life after it had failed.
  local function start_undoing(ctx, group, number, forward, name, recipe, cause)
    local steps = steps_key(ctx, group.id)
    local id, routing, payload, body = string.match(recipe, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
    local before = redis.call('HGET', steps, 't' .. number)
    local raw = before and redis.call('GET', task_key(ctx, before))
    local h = read_header(raw)
    if h and h[STATE] ~= COMPLETED then return revive(ctx, before, raw, h, cause, ctx.actor or 'null') end
    if before then
      -- The one before did its work, and the step's late success came behind it.
      local times = redis.call('HINCRBY', steps, 'again', 1)
      local again = next_id(id, times)
      local from, to = string.find(payload, id, 1, true)
      payload = string.sub(payload, 1, from - 1) .. again .. string.sub(payload, to + 1)
      id = again
      redis.call('HSET', steps, 'c' .. id, number)
    end
    local queue, rank, max_retries, wanted = string.match(routing, '^(%S+) (%d) (%d+) ?(%S*)$')
    h = { PENDING, QUEUED, tonumber(rank), 0, IN_GROUP + IS_COMPENSATION + HAS_DEPENDENCIES, 0, 0,
      tonumber(max_retries), 1, 0, 0, NOBODY, 0, ctx.now, 0, 0, #body }
    local agent = AGENT.route(ctx, string.match(body, '^[^\n]*\n([^\n]*)'), wanted ~= '' and wanted or nil)
    if agent then body, payload = AGENT.assign(h, body, payload, agent) end
    enqueue(ctx, id, h, queue)
    raw = pack_header(h) .. body
    redis.call('SET', task_key(ctx, id), raw)
    redis.call('HSET', dependencies_key(ctx, id), 'left', 0, forward, '0' .. name)
    redis.call('RPUSH', ctx.prefix .. 'group:' .. group.id, id)
    redis.call('HSET', steps, 't' .. number, id)
    local _, _, correlation, trace = read_body(raw)
    emit(ctx, 'orchestration.task.created', id, 1, correlation, cause,
      payload .. ',"blocked_by":[],"run_at":null,"created_at":"' .. ctx.iso .. '"}', trace)
    local field = WAITING[h[RANK]]
    ctx.count[field] = ctx.count[field] + 1
  end

  -- What the way back came to with a step: undone, or not.
  local function note_verdict(ctx, group, number, fate)
    local key = steps_key(ctx, group.id)
    redis.call('HSET', key, 'z' .. number, fate, 'q' .. number, redis.call('HINCRBY', key, 'verdicts', 1))
  end

  local function undone(ctx, group, number, name, task, cause)
    note_verdict(ctx, group, number, 'X')
    redis.call('HSET', steps_key(ctx, group.id), 'm' .. number, string.format('%d', ctx.now))
    emit_group(ctx, group, 'orchestration.saga.step_compensated', step_members(name, number, task), cause)
  end

  -- Undoes the step that ended last, of those that are left; ends the saga behind the first. Answers whether there is more
  -- to look at than one call may.
  local function undo_next(ctx, group, cause)
    for look = 1, UNDO_LOOKS do
      local number = redis.call('RPOP', ctx.prefix .. 'e:' .. group.id)
      if not number then
        finish(ctx, group, cause)
        return false
      end
      local key = steps_key(ctx, group.id)
      local known = redis.call('HMGET', key, 'n' .. number, 'f' .. number, 'k' .. number, 'o' .. number)
      if known[3] then
        -- It may come a second time: resumed, or for a success that was reported late.
        redis.call('HSET', key, 'z' .. number, known[4] and 'C' or 'D')
        redis.call('LREM', ctx.prefix .. 'u:' .. group.id, 0, number)
        start_undoing(ctx, group, number, known[2], known[1], known[3], cause)
        return false
      end
      undone(ctx, group, number, known[1], nil, cause)
    end
    return true
  end

  -- Long work: goes on to look for the next step to undo.
  SAGA.undone = function(ctx, id)
    local group = load_group(ctx, id)
    if group and group.state == 'G' and undo_next(ctx, group, nil) then return 0, UNDO_LOOKS end
    return nil, 1
  end

  -- Turns round, once no step runs any more; answers as `undo_next`.
  local function turn_round(ctx, group, cause)
    if group.passed ~= '' then
      finish(ctx, group, cause)
      return false
    end
    local ends, names = redis.call('LRANGE', ctx.prefix .. 'e:' .. group.id, 0, -1), {}
    local known = fields_of(ctx, group, 'n', ends)
    for i = #ends, 1, -1 do names[#names + 1] = quoted(known[i]) end
    group.state = 'G'
    emit_group(ctx, group, 'orchestration.saga.compensating',
      failed_member(group) .. ',"steps_to_compensate":' .. names_json(names) .. stop_words(group), cause)
    return undo_next(ctx, group, cause)
  end

  -- A compensation has ended; answers as `undo_next`.
  local function compensation_ended(ctx, group, ending, cause)
    local key = steps_key(ctx, group.id)
    local number = redis.call('HGET', key, 'c' .. ending.id)
    if group.state ~= 'G' or not number then return false end
    if ending.state == COMPLETED then
      undone(ctx, group, number, ending.step, ending.id, cause)
    else
      note_verdict(ctx, group, number, 'U')
      redis.call('RPUSH', ctx.prefix .. 'u:' .. group.id, number)
      emit_group(ctx, group, 'orchestration.saga.step_compensation_failed', step_members(ending.step, number, ending.id) ..
        ',"error":' .. (ending.data or '{"type":"cancelled","message":"the compensation was cancelled"}'), cause)
    end
    return undo_next(ctx, group, cause)
  end

  local function step_completed(ctx, group, ending, number, cause)
    local key = steps_key(ctx, group.id)
    redis.call('HSET', key, 'z' .. number, 'C', 'o' .. number, digits(group.completed))
    redis.call('RPUSH', ctx.prefix .. 'e:' .. group.id, number)
    emit_group(ctx, group, 'orchestration.saga.step_completed',
      step_members(ending.step, number, ending.id) .. ',"result":' .. ending.data, cause)
    -- One that is reached when the way back has begun is undone as any other.
    if group.abort == '' and redis.call('HEXISTS', key, 'p' .. number) == 1 then group.passed = '1' end
  end

  -- A step has ended without success: whatever it did is to be undone, and the saga goes back.
  local function step_failed(ctx, queue, group, ending, number, cause)
    local is_in_doubt = bit.band(ending.flags, IN_DOUBT) ~= 0
    local is_cancelled = ending.state == CANCELLED
    if is_in_doubt then
      redis.call('HSET', steps_key(ctx, group.id), 'z' .. number, 'D')
      redis.call('RPUSH', ctx.prefix .. 'e:' .. group.id, number)
    end
    -- Of one that never started there is nothing to tell.
    if ending.h[ATTEMPT] > 0 then
      emit_group(ctx, group, 'orchestration.saga.step_failed', step_members(ending.step, number, ending.id) .. ',"error":' ..
        (ending.data or '{"type":"cancelled","message":"the step was given up"}'), cause)
    end
    if group.abort ~= '' then return end
    group.abort = is_cancelled and 'cancelled' or 'failed'
    if not is_cancelled or group.passed ~= '' then group.failed_step = ending.step end
    group.root = ending.id
    if group.left > 0 then queue[#queue + 1] = 'a ' .. group.id .. ' 0' end
  end

  -- What the end of one of its tasks means for a saga.
  SAGA.ended = function(ctx, queue, group, ending, cause)
    local is_more
    if bit.band(ending.flags, IS_COMPENSATION) ~= 0 then
      is_more = compensation_ended(ctx, group, ending, cause)
    else
      if group.state ~= 'R' and group.state ~= 'P' then return end
      local number = redis.call('HGET', steps_key(ctx, group.id), 'i' .. ending.id)
      count_group(group, ending)
      if ending.state == COMPLETED then
        step_completed(ctx, group, ending, number, cause)
      else
        step_failed(ctx, queue, group, ending, number, cause)
      end
      if group.left > 0 then return end
      if group.abort ~= '' then is_more = turn_round(ctx, group, cause) else finish(ctx, group, cause) end
    end
    if is_more then queue[#queue + 1] = 'u ' .. group.id .. ' 0' end
  end

  -- Gives up the steps that have not started, from a place in the list on.
  SAGA.swept = function(ctx, id, cursor, budget)
    local group = load_group(ctx, id)
    if not group or group.left == 0 then return nil, 0 end
    local cause, members = string.match(group.stop, '^([^\n]*)\n(.*)$')
    if cause == '' then cause = nil end
    local ids = redis.call('LRANGE', ctx.prefix .. 'group:' .. id, cursor, cursor + budget - 1)
    for i, raw in ipairs(load_records(task_keys(ctx, ids))) do
      local h = read_header(raw)
      if h and h[PLACE] == STAGED then return cursor + i - 1, i end
      if h and has(h, IS_STEP) then
        if h[STATE] == PENDING then
          cancel_task(ctx, ids[i], raw, h, 'saga_aborted', cause, members or '', group.root ~= '' and group.root or nil)
        elseif h[STATE] == RUNNING and SAGA.gives_up(ctx, id) then
          -- Its handler is told; the step has ended when the handler has.
          if h[OWNER] == AGENT.OWNER then
            -- Nobody sees the end of what an agent does: it is told, and the step is in doubt.
            cancel_task(ctx, ids[i], raw, h, 'saga_aborted', cause, members or '', group.root ~= '' and group.root or nil)
          else
            ring(ctx, 'abort', ids[i])
          end
        end
      end
    end
    flush(ctx)
    if #ids == budget then return cursor + budget, budget end
    return nil, #ids
  end

  -- How a step ends that is handed back after its saga has turned round: nothing is tried again. Answers an outcome and an
  -- error, or nil where it is to be queued again.
  SAGA.given_back = function(ctx, h, saga_id, reason)
    local saga = has(h, IS_STEP) and load_group(ctx, saga_id)
    if not saga or saga.abort == '' then return nil end
    if reason == '"shutdown"' then
      return 'aborted', '{"type":"cancelled","message":"its replica stopped, and its saga goes back"}'
    end
    -- Its handler was never called.
    return 'unstarted', '{"type":"not_started","message":"it was handed back unstarted, and its saga goes back"}'
  end

  -- Whether the handlers of its running steps are to end.
  SAGA.gives_up = function(ctx, id)
    local group = load_group(ctx, id)
    return group and group.abort == 'cancelled' and group.passed == '' and group.left > 0
  end

  SAGA.cancelled = function(ctx, group, cause, members)
    -- This very command came before.
    if cause and cause ~= '' and string.sub(group.stop, 1, #cause + 1) == cause .. '\n' then return 'ok' end
    if group.state ~= 'P' and group.state ~= 'R' then return group.state == 'G' and 'ok' or 'terminal' end
    if group.passed ~= '' then return 'passed' end
    if group.abort ~= 'cancelled' then
      -- One that has failed waits for steps that run; now they are told to end.
      group.abort = 'cancelled'
      group.stop = (cause or '') .. '\n' .. (members or '')
      add_work(ctx, 'a ' .. group.id .. ' 0')
    end
    return 'ok'
  end

  -- The dead letter of a late success. The step has one of its last attempt as well.
  local function late_letter(task) return task .. '.late' end

  -- Takes the dead letters of late successes away; answers their names, as JSON strings.
  local function remove_late_letters(ctx, group, numbers)
    local names = {}
    for _, task in ipairs(fields_of(ctx, group, 'f', numbers)) do
      local letter = late_letter(task)
      if redis.call('ZSCORE', ctx.prefix .. 'dead', letter) then
        remove_letter(ctx, letter)
        names[#names + 1] = quoted(letter)
      end
    end
    return names
  end

  -- Behind the pivot the way on is forward: what was given up there is tried again. An operator asks for it, and not often:
  -- it is done in one call.
  local function go_on(ctx, group, cause)
    local numbers = all_numbers(group)
    local ids = fields_of(ctx, group, 'f', numbers)
    group.abort, group.failed_step, group.root, group.stop, group.state = '', '', '', '', 'R'
    group.left = group.failed + group.timeout + group.cancelled
    group.failed, group.timeout, group.cancelled = 0, 0, 0
    for i, raw in ipairs(load_records(task_keys(ctx, ids))) do
      local h = read_header(raw)
      if h and (h[STATE] == FAILED or h[STATE] == TIMEOUT or h[STATE] == CANCELLED) then
        redis.call('HDEL', steps_key(ctx, group.id), 'z' .. numbers[i])
        redis.call('LREM', ctx.prefix .. 'e:' .. group.id, 0, numbers[i])
        revive(ctx, ids[i], raw, h, cause, ctx.actor)
      end
    end
  end

  SAGA.resumed = function(ctx, group, actor)
    if group.state == 'G' then return 'ok' end
    local from, to = ctx.prefix .. 'u:' .. group.id, ctx.prefix .. 'e:' .. group.id
    local is_forward = group.state == 'F' and group.passed ~= ''
    -- One that went back whole may have got a late success since.
    if not is_forward and ((group.state ~= 'F' and group.state ~= 'B') or redis.call('LLEN', from) == 0) then
      return 'terminal'
    end
    group.finished_ms = 0
    ctx.actor = actor
    if not is_forward then group.state = 'G' end
    local numbers = is_forward and all_numbers(group) or redis.call('LRANGE', from, 0, -1)
    emit_group(ctx, group, 'orchestration.saga.resumed',
      '"actor":' .. actor .. ',"dead_letter_ids":' .. names_json(remove_late_letters(ctx, group, numbers)), nil)
    local cause = group.id .. '/' .. digits(group.seq)
    if is_forward then
      go_on(ctx, group, cause)
      return 'ok'
    end
    -- They failed in the order in which they are to be undone.
    while true do
      local number = redis.call('RPOP', from)
      if not number then break end
      redis.call('RPUSH', to, number)
    end
    if undo_next(ctx, group, cause) then add_work(ctx, 'u ' .. group.id .. ' 0') end
    return 'ok'
  end

  -- Whether what undoes a step is made and has not begun: then it comes behind a success that is reported now.
  local function is_still_to_begin(ctx, task)
    local h = read_header(task and redis.call('GET', task_key(ctx, task)))
    return h and h[STATE] == PENDING and h[ATTEMPT] == 0
  end

  -- A success was reported of a step that had been given up: it took effect all the same. While its saga goes back it is
  -- undone as what ended last, unless its turn is still to come. Of a saga that has ended it is kept as a dead letter, and
  -- undone when somebody resumes the saga. What undoes it gets the result that came with it.
  SAGA.late = function(ctx, id, raw, h, body, result)
    local head, correlation, trace, saga, step = body[2], body[3], body[4], body[5], body[6]
    local group = load_group(ctx, saga)
    if not group then return end
    local key = steps_key(ctx, saga)
    local number = redis.call('HGET', key, 'i' .. id)
    if redis.call('HSETNX', key, 'l' .. number, '1') == 0 then return end
    redis.call('HSET', key, 'r' .. number, result)
    local known = redis.call('HMGET', key, 'z' .. number, 't' .. number, 'k' .. number)
    local members = step_members(step, number, id) .. ',"has_compensation":' .. (known[3] and 'true' or 'false')
    if group.finished_ms == 0 then
      local is_to_come = known[1] == 'D' and (not known[2] or is_still_to_begin(ctx, known[2]))
      if group.passed == '' and not is_to_come then
        redis.call('HSET', key, 'z' .. number, 'D')
        redis.call('LREM', ctx.prefix .. 'u:' .. saga, 0, number)
        redis.call('RPUSH', ctx.prefix .. 'e:' .. saga, number)
      end
      emit_group(ctx, group, 'orchestration.saga.step_late_success', members, nil)
      return
    end
    if known[3] and group.passed == '' then
      note_verdict(ctx, group, number, 'U')
      -- What ended last is undone first.
      redis.call('LREM', ctx.prefix .. 'u:' .. saga, 0, number)
      redis.call('LPUSH', ctx.prefix .. 'u:' .. saga, number)
    end
    local letter = late_letter(id)
    keep_copy(ctx, id, letter, raw, h, head, correlation, 'late_success',
      '{"type":"late_success","message":"the action succeeded after its step had been given up and its saga had ended"}')
    emit_group(ctx, group, 'orchestration.saga.step_late_success', members .. ',"dead_letter_id":"' .. letter .. '"', nil)
  end
end
