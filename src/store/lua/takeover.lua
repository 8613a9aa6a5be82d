--[[
takeover: takes back what a silent replica held.

The caller has seen the victim's beat stand still on its own clock and names it; when the beat has moved since, nothing
happens. So no clock and no outage of Redis can make a living replica lose its work.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 victim  3 beat of the victim that the caller saw  4 limit
Returns { 'ok', moved, done ('1' when nothing of the victim is left) } | { 'alive' } | { 'schema', found }.
        O(limit + streams).
]]
local function takeover(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local victim, limit = args[2], tonumber(args[4])
  local seen = redis.call('HGET', ctx.prefix .. 'beats', victim)
  if (seen or '') ~= args[3] then return { 'alive' } end
  local moved = 0
  local problem = '{"type":"lost","message":"replica ' .. victim .. ' fell silent while it ran the task"}'
  for _, stream in ipairs(all_streams(ctx)) do
    if moved >= limit then break end
    for _, pending in ipairs(pending_of(stream, victim, limit - moved)) do
      local id = task_of_entry(stream, pending[1])
      local raw = id and load_record(ctx, id)
      local h = read_header(raw)
      if h and h[STATE] == RUNNING and h[OWNER] == victim and entry_id(ctx, h) == pending[1] then
        lose(ctx, id, raw, h, problem)
      elseif waits_in(ctx, h, pending[1]) then
        line_up(ctx, stream, pending[1], id, raw, h)
      else
        local ms, seq = entry_numbers(pending[1])
        finish_entry(ctx, stream, ms, seq)
      end
      moved = moved + 1
    end
  end
  follow(ctx, FOLLOW_BUDGET)
  AGENT.hand_over(ctx)
  retire(ctx)
  count_rate(ctx)
  close(ctx)
  local done = moved < limit
  if done then
    local announced = redis.call('HGET', ctx.prefix .. 'replica:' .. victim, 'workers')
    -- One without workers took tasks by hand and was never announced.
    if announced and announced ~= '0' then
      SPEAKER.tell_status(ctx, victim, 'lost', announced)
    end
    done = forget_replica(ctx, victim)
  end
  return { 'ok', moved, done and '1' or '0' }
end

register('takeover', takeover, DRAINS)
