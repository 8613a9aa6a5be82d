--[[
promote: queues delayed tasks whose time has come, by a clock that may have gone back (see clock.lua), looks after agents that may
be silent (see agent.lua), and goes on with long work that others began (see follow.lua).

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 limit
Returns { 'ok', promoted, next_ms (until the next is due, 0 while long work is left; -1 when none waits), task ids and attempts
        in turn of agents whose time is up, for the caller to end them, how many attempts silent agents lost }
        | { 'schema', found }. O(limit log timers).
]]
-- How many items of long work one call looks at.
local BACKLOG_ITEMS = 64

local function promote(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local timers = ctx.prefix .. 'timers'
  local is_shifting = follow_clock(ctx)
  local ids = redis.call('ZRANGEBYSCORE', timers, '-inf', ctx.now, 'LIMIT', 0, args[2])
  local keys_of_ids, again, lost = task_keys(ctx, ids), {}, 0
  local records = load_records(keys_of_ids)
  -- First, since what is done with a task may set it another.
  for first = 1, #ids, CHUNK do
    redis.call('ZREM', timers, unpack(ids, first, math.min(first + CHUNK - 1, #ids)))
  end
  for i, id in ipairs(ids) do
    local raw = records[i]
    local h = read_header(raw)
    if h and h[STATE] == PENDING and h[PLACE] == DELAYED then
      local queue = read_body(raw)
      aside(ctx, queue, h[RANK], -1)
      enqueue(ctx, id, h, queue)
      save(ctx, keys_of_ids[i], raw, h)
    elseif h and h[STATE] == RUNNING and h[OWNER] == AGENT.OWNER then
      local due = AGENT.look(ctx, id, raw, h)
      if due then
        again[#again + 1] = string.format('%d', due)
        again[#again + 1] = id
      else
        lost = lost + 1
      end
    end
  end
  for first = 1, #again, CHUNK do
    redis.call('ZADD', timers, unpack(again, first, math.min(first + CHUNK - 1, #again)))
  end
  if ctx.count.backlog > 0 then
    ctx.work = redis.call('LPOP', ctx.prefix .. 'work', BACKLOG_ITEMS) or {}
    ctx.count.backlog = ctx.count.backlog - #ctx.work
  end
  follow(ctx, FOLLOW_BUDGET)
  retire(ctx)
  count_rate(ctx)
  AGENT.hand_over(ctx, true)
  retire(ctx)
  close(ctx)
  if ctx.count.backlog > 0 or ctx.is_hand_full then return { 'ok', #ids, 0, ctx.expired, lost } end
  local head = redis.call('ZRANGE', timers, 0, 0, 'WITHSCORES')
  local next_ms = -1
  if head[2] then next_ms = math.max(0, tonumber(head[2]) - ctx.now) end
  if is_shifting then next_ms = 0 end
  return { 'ok', #ids, next_ms, ctx.expired, lost }
end

register('promote', promote, DRAINS)
