--[[
admit: who may come in.
]]
local HANDLER_MEMORY_MS = 3600000
-- How long triggers that found the queue full are taken to wait; they ask again much sooner.
local WAITING_MS = 1000
-- Every claim looks at every queue, so their number is bounded.
local QUEUES_MAX = 256

-- Whether a replica has registered a name within the last hour. A clock that jumped, or a machine that slept, makes an hour of
-- a moment, so those that live are asked before a name counts as unknown.
local function is_registered(ctx, name)
  local seen = redis.call('ZSCORE', ctx.prefix .. 'handlers', name)
  if seen and ctx.now - seen < HANDLER_MEMORY_MS then return true end
  for _, replica in ipairs(redis.call('HKEYS', ctx.prefix .. 'beats')) do
    if redis.call('SISMEMBER', ctx.prefix .. 'can:' .. replica, name) == 1
      or redis.call('HEXISTS', ctx.prefix .. 'replica:' .. replica, CIRCUIT .. name) == 1 then return true end
  end
  return false
end

-- How many tasks are not terminal, those included that are not told of yet.
local function total_tasks(ctx)
  local count = ctx.count
  return count.p0 + count.p1 + count.p2 + count.p3 + count.running + count.opening
end

local function has_room(ctx) return ctx.max_size == 0 or total_tasks(ctx) < ctx.max_size end

-- Whether Redis is short of memory. New tasks are refused before Redis itself does, so that what drains has room; a moment
-- further away than any such report was written by a clock that has gone back since.
local function is_memory_short(ctx) return ctx.now < ctx.tight_ms and ctx.tight_ms <= ctx.now + WAITING_MS * 10 end

-- While the oldest trigger waits for room, none behind it may slip in; a moment further away than any such wait was
-- written by a clock that has gone back since.
local function must_wait_for_older(ctx, asker)
  return asker == 'stream' and ctx.now < ctx.waiting_ms and ctx.waiting_ms <= ctx.now + WAITING_MS
end
