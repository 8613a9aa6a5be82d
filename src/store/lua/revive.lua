--[[
revive: gives a task that ended without success another life.

The same task goes on: its id, the numbers of its events and attempts, its place in a group. Its budget of retries begins
anew, and its dead letter is gone. How many lives it had, and which dead letter led to which, is kept beside its record, so
that a second request is known as one: `x:<id>` holds beside the notes on attempts `life`, from the second on, and
`r<attempt>`, the life that the dead letter of that attempt led to.
]]
local revive, remove_letter, attempts_key
do
  attempts_key = function(ctx, id) return ctx.prefix .. 'x:' .. id end

  remove_letter = function(ctx, letter)
    redis.call('ZREM', ctx.prefix .. 'dead', letter)
    redis.call('UNLINK', ctx.prefix .. 'dead:' .. letter)
  end

  -- A workflow that has not ended waits for the task again, and its failure is none yet. That dependents were cancelled
  -- for it stays a reason to fail.
  local function reopen(ctx, group_id, id, state)
    local group = load_group(ctx, group_id)
    if not group or group.kind ~= 'workflow' or group.state ~= 'R' then return end
    local name = ENDED[state]
    group.left = group.left + 1
    group[name] = group[name] - 1
    if group.root == id and group.cancelled == 0 then group.root = '' end
  end

  -- The task waits at the tail of its priority. `raw` is its record, of which only the body counts; `actor` is JSON. Nothing
  -- is asked of the limits, and its end stays counted: a task has as many ends as lives that ended. Answers its life.
  revive = function(ctx, id, raw, h, cause, actor)
    local queue, head, correlation, trace, group = read_body(raw)
    local attempt = digits(h[ATTEMPT])
    local letter = letter_of(id, h)
    -- One that was cancelled lies in none.
    local letter_json = h[STATE] == CANCELLED and 'null' or '"' .. letter .. '"'
    local life = (tonumber(redis.call('HGET', attempts_key(ctx, id), 'life')) or 1) + 1
    redis.call('HSET', attempts_key(ctx, id), 'life', digits(life), 'r' .. attempt, digits(life))
    remove_letter(ctx, letter)
    if has(h, IN_GROUP) then reopen(ctx, group, id, h[STATE]) end
    h[STATE] = PENDING
    h[RETRIES] = 0
    h[LOSSES] = 0
    h[OWNER] = NOBODY
    h[SLOT] = 0
    h[STARTED] = 0
    h[FINISHED] = 0
    local field = WAITING[h[RANK]]
    ctx.count[field] = ctx.count[field] + 1
    emit_task(ctx, 'orchestration.task.requeued', id, h, head, correlation, trace,
      '"dead_letter_id":' .. letter_json .. ',"life":' .. digits(life) .. ',"actor":' .. actor, cause)
    if has(h, IS_STEP) and (tonumber(redis.call('HGET', dependencies_key(ctx, id), 'left')) or 0) > 0 then
      -- What comes before it was given up with it, and is tried again as well.
      h[PLACE] = BLOCKED
      aside(ctx, queue, h[RANK], 1)
    else
      enqueue(ctx, id, h, queue)
    end
    -- Written as a whole: what stood behind the body was the error of the life before.
    redis.call('SET', task_key(ctx, id), pack_header(h) .. string.sub(raw, HEADER_BYTES + 1, HEADER_BYTES + h[BODY]))
    return life
  end
end
