--[[
revive: gives a task that ended without success another life.
]]

-- The task waits again, at the tail of its priority, with all its retries. `members` are those of its event.
local function revive(ctx, id, raw, h, cause, members)
  local queue, head, correlation, trace = read_body(raw)
  local name = ENDED[h[STATE]]
  ctx.count[name] = ctx.count[name] - 1
  h[STATE] = PENDING
  h[RETRIES] = 0
  h[LOSSES] = 0
  h[FINISHED] = 0
  local field = WAITING[h[RANK]]
  ctx.count[field] = ctx.count[field] + 1
  emit_task(ctx, 'orchestration.task.requeued', id, h, head, correlation, trace, members, cause)
  enqueue(ctx, id, h, queue)
  local key = task_key(ctx, id)
  if #raw > SMALL_BYTES then
    redis.call('SET', key, pack_header(h) .. string.sub(raw, HEADER_BYTES + 1, HEADER_BYTES + h[BODY]))
  else
    save(ctx, key, raw, h)
  end
end
