--[[
limit: how many tasks of one name may run at a time, whoever runs them.

Each replica says when it joins what its configuration allows, and the smallest number that any known replica said counts:
while a new configuration rolls out nobody's is exceeded. `limits` holds it by name, `meta` how many names have one; where
none has, nothing here costs anything. The set `running:<name>` holds the tasks of such a name that run. A task whose name
is at its limit is parked by whoever looks at it, like one whose handler the caller lacks, and the next claim that finds
room merges what is parked with what is queued. For a task of an agent that is whichever call makes room, or the next look at
the timers.

A limit that is new while tasks run is counting until they are found, in parts like other long work (see follow.lua), and
nothing of its name starts meanwhile.
]]
local LIMIT = {}
do
  -- What the fields of a replica's hash begin with that tell what it allows; the name of the tasks follows.
  local MOST = 'most:'
  local COUNTING = ' counting'
  -- How many streams one part of the counting looks into.
  local STREAMS_MAX = 400
  -- As much of a record as the header and the name can take.
  local NAME_BYTES = 512

  local function set_of(ctx, name) return ctx.prefix .. 'running:' .. name end

  local function is_counting(value) return string.find(value, COUNTING, 1, true) ~= nil end

  local function limit_of(ctx, name)
    local limit = ctx.limits[name]
    if limit == nil then
      limit = false
      local value = redis.call('HGET', ctx.prefix .. 'limits', name)
      if value then
        limit = { most = tonumber(string.match(value, '^%d+')), counting = is_counting(value),
          running = redis.call('SCARD', set_of(ctx, name)) }
        limit.was_full = limit.running >= limit.most
      end
      ctx.limits[name] = limit
    end
    return limit
  end

  -- How many more tasks of a name may start; nil where any number may.
  LIMIT.room = function(ctx, name)
    local limit = ctx.count.limited > 0 and limit_of(ctx, name)
    if not limit then return nil end
    return limit.counting and 0 or math.max(0, limit.most - limit.running)
  end

  -- Whether this call has made room under a limit.
  LIMIT.has_room = function(ctx)
    for _, limit in pairs(ctx.limits) do
      if limit and limit.was_full and limit.running < limit.most then return true end
    end
    return false
  end

  -- A task of a name starts.
  LIMIT.enter = function(ctx, name, id)
    local limit = ctx.count.limited > 0 and limit_of(ctx, name)
    if limit then limit.running = limit.running + redis.call('SADD', set_of(ctx, name), id) end
  end

  -- A task of a name runs no more.
  LIMIT.leave = function(ctx, name, id)
    local limit = ctx.count.limited > 0 and limit_of(ctx, name)
    if limit then limit.running = limit.running - redis.call('SREM', set_of(ctx, name), id) end
  end

  -- Whether a running task is counted, or need not be.
  LIMIT.counts = function(ctx, name, id)
    local limit = ctx.count.limited > 0 and limit_of(ctx, name)
    return not limit or limit.counting or redis.call('SISMEMBER', set_of(ctx, name), id) == 1
  end

  -- The names that have a limit, in a stable order, and the tasks of one that are counted as running.
  LIMIT.names = function(ctx)
    local names = redis.call('HKEYS', ctx.prefix .. 'limits')
    table.sort(names)
    return names
  end

  LIMIT.members = function(ctx, name) return redis.call('SMEMBERS', set_of(ctx, name)) end

  -- The smallest numbers that known replicas say of some names, by name.
  local function least_of(ctx, names)
    local least = {}
    for _, replica in ipairs(redis.call('HKEYS', ctx.prefix .. 'beats')) do
      for first = 1, #names, CHUNK do
        local fields = {}
        for i = first, math.min(first + CHUNK - 1, #names) do fields[#fields + 1] = MOST .. names[i] end
        local values = redis.call('HMGET', ctx.prefix .. 'replica:' .. replica, unpack(fields))
        for i = 1, #fields do
          local name, most = names[first + i - 1], tonumber(values[i] or nil)
          if most and (not least[name] or most < least[name]) then least[name] = most end
        end
      end
    end
    return least
  end

  -- Settles what counts of some names, after a replica has said something or is gone.
  LIMIT.agree = function(ctx, names)
    if #names == 0 then return end
    local limits, least = ctx.prefix .. 'limits', least_of(ctx, names)
    for _, name in ipairs(names) do
      local most, known = least[name], redis.call('HGET', limits, name)
      if not most then
        if known then
          redis.call('HDEL', limits, name)
          redis.call('DEL', set_of(ctx, name))
        end
      elseif known then
        redis.call('HSET', limits, name, digits(most) .. (is_counting(known) and COUNTING or ''))
      else
        redis.call('HSET', limits, name, digits(most) .. COUNTING)
        add_work(ctx, 'l ' .. name .. ' 0 ')
      end
      ctx.limits[name] = nil
    end
    local limited = redis.call('HLEN', limits)
    redis.call('HSET', ctx.meta, 'limited', limited)
    ctx.count.limited, ctx.before.limited = limited, limited
    ring(ctx, 'room', '')
  end

  -- What a replica has said of any names.
  LIMIT.said_by = function(ctx, replica)
    local names = {}
    for _, field in ipairs(redis.call('HKEYS', ctx.prefix .. 'replica:' .. replica)) do
      if string.sub(field, 1, #MOST) == MOST then names[#names + 1] = string.sub(field, #MOST + 1) end
    end
    return names
  end

  -- Notes what a replica says: names, each with its number in `most`.
  LIMIT.say = function(ctx, replica, names, most)
    local own = ctx.prefix .. 'replica:' .. replica
    local changed = {}
    for _, name in ipairs(LIMIT.said_by(ctx, replica)) do
      if not most[name] then
        redis.call('HDEL', own, MOST .. name)
        changed[#changed + 1] = name
      end
    end
    for _, name in ipairs(names) do
      redis.call('HSET', own, MOST .. name, most[name])
      changed[#changed + 1] = name
    end
    LIMIT.agree(ctx, changed)
  end

  -- Finds the running tasks of a name, from an entry of a stream on; what `follow` does of it at a time.
  LIMIT.count = function(ctx, name, _, budget, rest)
    local limits = ctx.prefix .. 'limits'
    local value = redis.call('HGET', limits, name)
    if not value or not is_counting(value) then return nil, 0 end
    local from, after = string.match(rest, '^(%S*) ?(%S*)$')
    local streams, spent, looked = all_streams(ctx), 0, 0
    for _, queue in ipairs(redis.call('SMEMBERS', ctx.prefix .. 'desks')) do
      for rank = 0, 3 do streams[#streams + 1] = AGENT.stream(ctx, queue, rank) end
    end
    table.sort(streams)
    for _, stream in ipairs(streams) do
      local short = string.sub(stream, #ctx.prefix + 1)
      if short >= from then
        if looked >= STREAMS_MAX then return 0, spent, short .. ' ' end
        looked = looked + 1
        local start = short == from and after ~= '' and '(' .. after or '-'
        local found = redis.pcall('XPENDING', stream, GROUP, start, '+', budget - spent)
        if found.err then found = {} end
        for _, entry in ipairs(found) do
          local id = task_of_entry(stream, entry[1])
          local raw = id and redis.call('GETRANGE', task_key(ctx, id), 0, NAME_BYTES - 1) or ''
          local is_meant = string.match(raw, '^[^\n]*\n([^\n ]*)[^\n]*\n', HEADER_BYTES + 1) == name
          if is_meant and read_header(raw)[STATE] == RUNNING then redis.call('SADD', set_of(ctx, name), id) end
        end
        spent = spent + #found
        if spent >= budget then return 0, spent, short .. ' ' .. found[#found][1] end
      end
    end
    redis.call('HSET', limits, name, (string.gsub(value, COUNTING, '')))
    ctx.limits[name] = nil
    ring(ctx, 'room', name)
    return nil, spent
  end
end

-- A task that ran runs no more.
local function leave_running(ctx, id, head)
  ctx.count.running = ctx.count.running - 1
  if ctx.count.limited > 0 then LIMIT.leave(ctx, task_name_of(head), id) end
end
