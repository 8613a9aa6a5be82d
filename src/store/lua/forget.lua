--[[
forget: removes what is kept of a task or a group, once the last event of its life has left the log.

A task that only carries the name of a workflow goes by itself. One of a workflow or saga that was started goes with the
group, so that the whole can be looked at as long as anything of it: when the group's last event has left the log, its
tasks go in chunks, over as many calls as it takes. The list `forgetting` names the lists of tasks that are left to do.
]]
local read_short, forget_with, forget_group_with, forget_members, STAGED_MS, forget_staged
do
  -- How long looking for one member of a list of tasks takes, as bytes.
  local MEMBER_BYTES = 4
  -- As much of a record as the name of its group may end in.
  local FORGET_RECORD_BYTES = 1024

  local function is_terminal(state)
    return state == COMPLETED or state == FAILED or state == TIMEOUT or state == CANCELLED
  end

  -- Whether a task that ended goes by itself.
  local function may_forget(ctx, h, group)
    return not has(h, IN_GROUP) or not load_group(ctx, group)
  end

  local function forget_keys(ctx, id, h)
    if has(h, AGENT.BY) then redis.call('UNLINK', AGENT.key(ctx, id)) end
    redis.call('UNLINK', task_key(ctx, id), ctx.prefix .. 'x:' .. id, dependencies_key(ctx, id), dependents_key(ctx, id))
  end

  -- The header of a task and the name of its group, read without what may be large; nil where there is no record.
  read_short = function(ctx, id)
    local raw = load_front(ctx, id, FORGET_RECORD_BYTES)
    local h = read_header(raw)
    if not h then return nil end
    return h, string.match(raw, '^[^\n]*\n[^\n]*\n([^\n ]*)', HEADER_BYTES + 1) or ''
  end

  -- Forgets the task whose event `seq` leaves the log, if that was its last. Answers how many were forgotten, and what it
  -- cost, in bytes.
  forget_with = function(ctx, id, seq)
    local h, group = read_short(ctx, id)
    if not h then return 0, 0 end
    if not is_terminal(h[STATE]) or h[SEQ] > seq then return 0, HEADER_BYTES end
    if not may_forget(ctx, h, group) then return 0, HEADER_BYTES end
    forget_keys(ctx, id, h)
    if group == '' then return 1, FORGET_RECORD_BYTES end
    local list = ctx.prefix .. 'group:' .. group
    local length = redis.call('LLEN', list)
    redis.call('LREM', list, 1, id)
    -- The callers' own names for tasks go with the last of them.
    if length <= 1 then redis.call('UNLINK', ctx.prefix .. 'keys:' .. group) end
    return 1, FORGET_RECORD_BYTES + MEMBER_BYTES * length
  end

  -- Forgets the group whose event `seq` leaves the log, if that was its last; its tasks are left to `forget_members`.
  forget_group_with = function(ctx, id, seq)
    local group = load_group(ctx, id)
    if not group or group.finished_ms == 0 or not string.find('CFXB', group.state, 1, true) or group.seq > seq then return end
    local prefix = ctx.prefix
    redis.call('UNLINK', prefix .. 'w:' .. id, prefix .. 'keys:' .. id, prefix .. 's:' .. id, prefix .. 'e:' .. id,
      prefix .. 'u:' .. id)
    ctx.groups[id] = nil
    local list = prefix .. 'group:' .. id
    if redis.call('EXISTS', list) == 0 then return end
    -- Under another name: the id is free from here on.
    local left = prefix .. 'forgetting:' .. id .. ':' .. string.format('%d', group.finished_ms)
    redis.call('RENAME', list, left)
    redis.call('RPUSH', prefix .. 'forgetting', left)
  end

  -- Forgets up to `limit` tasks of groups that are gone; answers how many, and whether more are left.
  forget_members = function(ctx, limit)
    local waiting, tasks, looked = ctx.prefix .. 'forgetting', 0, 0
    while looked < limit do
      local list = redis.call('LINDEX', waiting, 0)
      if not list then return tasks, false end
      local ids = redis.call('LPOP', list, limit - looked) or {}
      looked = looked + math.max(#ids, 1)
      for _, id in ipairs(ids) do
        local h, group = read_short(ctx, id)
        if h and is_terminal(h[STATE]) then
          forget_keys(ctx, id, h)
          tasks = tasks + 1
        elseif h then
          -- One that lives all the same, and from now on only carries the name.
          redis.call('RPUSH', ctx.prefix .. 'group:' .. group, id)
        end
      end
      if redis.call('EXISTS', list) == 0 then redis.call('LPOP', waiting) end
    end
    return tasks, redis.call('EXISTS', waiting) == 1
  end

  -- How long staged tasks may stand around before they are swept: their replica died, and no other took the event over.
  STAGED_MS = 3600000

  -- Removes up to `limit` tasks of a group that was begun and never made known, the last first; with the first the group
  -- itself goes. Answers whether there may be more.
  forget_staged = function(ctx, limit)
    local staging = ctx.prefix .. 'staging'
    local id = redis.call('ZRANGEBYSCORE', staging, '-inf', string.format('%d', ctx.now - STAGED_MS), 'LIMIT', 0, 1)[1]
    if not id then return false end
    local group, list = load_group(ctx, id), ctx.prefix .. 'group:' .. id
    if not group or group.state ~= 'S' then
      redis.call('ZREM', staging, id)
      return true
    end
    -- What stands before the first are tasks that only carry the name.
    local ids = redis.call('LRANGE', list, math.max(group.first, redis.call('LLEN', list) - limit), -1)
    local keys = ctx.prefix .. 'keys:' .. id
    for at = #ids, 1, -1 do
      local raw = load_record(ctx, ids[at])
      local h = read_header(raw)
      if h and h[PLACE] == STAGED then
        local key = string.match(raw, '"key":"([^"]+)"$')
        if key then redis.call('HDEL', keys, key) end
        forget_keys(ctx, ids[at], h)
        ctx.count.opening = ctx.count.opening - 1
        group.left, group.total = group.left - 1, group.total - 1
      end
      redis.call('RPOP', list)
    end
    if #ids < limit then
      redis.call('UNLINK', ctx.prefix .. 'w:' .. id, ctx.prefix .. 's:' .. id)
      redis.call('ZREM', staging, id)
      ctx.groups[id] = false
    end
    return true
  end
end
