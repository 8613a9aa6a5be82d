--[[
clock: what a clock of Redis that goes back does to timers.

Timers are due by the time of Redis. Were that set back by hours, every delay under way would last hours longer, so the
timers are moved back with it. The latest time that was seen is kept in `meta`; whoever looks at the timers compares.

A clock that goes forward can not be told from a night in which nobody looked, so timers fire early then. That shortens
a pause and breaks nothing: no owner loses a task by the clock. What agents said meanwhile may not have been read yet, so
their silence counts anew from the first look after either (`AGENT.heard`), and their attempts have no less time for it:
that goes by a clock that stands still while nobody looks, and never jumps (`CLOCK.steady`). It is behind that of Redis by
`asleep_ms`, which may be negative.
]]
local follow_clock
do
  -- With a replica alive, somebody looks about every second.
  local LOOK_GAP_MS = 3000
  -- Smaller steps back are what keeping a clock in time looks like.
  local BACK_MIN_MS = 1000
  -- How many timers one call moves.
  local SHIFT_BATCH = 1000

  -- By how much the clock jumped since somebody last looked, or nobody looked, ms; 0 where it just went on.
  local function gap_since(ctx, looked)
    local gap = looked and ctx.now - looked or 0
    return (gap > LOOK_GAP_MS or gap < 0) and gap or 0
  end

  -- The time by a clock that only goes on while somebody looks, ms.
  CLOCK.steady = function(ctx)
    if not ctx.steady_ms then
      local known = redis.call('HMGET', ctx.meta, 'looked_ms', 'asleep_ms')
      ctx.steady_ms = ctx.now - gap_since(ctx, tonumber(known[1])) - (tonumber(known[2]) or 0)
    end
    return ctx.steady_ms
  end

  -- Notes that somebody looks.
  local function look(ctx, looked, now)
    redis.call('HSET', ctx.meta, 'clock_ms', now, 'looked_ms', now)
    local gap = gap_since(ctx, looked)
    if gap ~= 0 then redis.call('HINCRBY', ctx.meta, 'asleep_ms', string.format('%d', gap)) end
  end

  -- Moves timers, a bounded number a call, by what the clock went back; answers whether some are left to be moved. They wait in
  -- `shifting` meanwhile, so that none is moved twice. Whoever takes a task out of the timers may miss it there: it comes
  -- back as a timer of a task that waits no more, which is dropped when it is due.
  follow_clock = function(ctx)
    local timers, shifting = ctx.prefix .. 'timers', ctx.prefix .. 'shifting'
    local known = redis.call('HMGET', ctx.meta, 'clock_ms', 'shift_by_ms', 'looked_ms')
    local seen, by, looked, now = tonumber(known[1]) or 0, tonumber(known[2]), tonumber(known[3]), string.format('%d', ctx.now)
    if not by and seen - ctx.now > BACK_MIN_MS then
      local back = string.format('%d', seen - ctx.now)
      look(ctx, looked, now)
      redis.call('HINCRBY', ctx.meta, 'went_back_ms', back)
      if redis.call('EXISTS', timers) == 1 then
        redis.call('RENAME', timers, shifting)
        redis.call('HSET', ctx.meta, 'shift_by_ms', back)
        by = tonumber(back)
      end
    elseif ctx.now - math.min(seen, looked or 0) >= CLOCK.GRAIN_MS then
      look(ctx, looked, now)
      if ctx.now - (looked or 0) > LOOK_GAP_MS then redis.call('HSET', ctx.meta, 'awake_ms', now) end
    end
    if not by then return false end

    local found = redis.call('ZRANGE', shifting, 0, SHIFT_BATCH - 1, 'WITHSCORES')
    if #found > 0 then
      -- A timer that was set anew since counts, not the one before.
      local moved = { 'ZADD', timers, 'NX' }
      for i = 1, #found, 2 do
        moved[#moved + 1] = string.format('%d', tonumber(found[i + 1]) - by)
        moved[#moved + 1] = found[i]
      end
      redis.call(unpack(moved))
      redis.call('ZREMRANGEBYRANK', shifting, 0, #found / 2 - 1)
    end
    if redis.call('EXISTS', shifting) == 1 then return true end
    redis.call('HDEL', ctx.meta, 'shift_by_ms')
    return false
  end
end
