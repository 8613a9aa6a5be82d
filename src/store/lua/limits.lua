--[[
limits: changes max_size or max_running for all replicas at once; from then on configuration files no longer do.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 operator  2 max_size or ''  3 max_running or ''  4 actor (JSON)  5 reason (JSON)
        6 target: what was named (JSON)  7 what was asked for: members of the event, with a comma in front
Returns { 'ok' } | { 'unchanged' } (they were set so before) | { 'schema', found }; writes nothing unless ok. O(1).
]]
local function limits(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local set = redis.call('HGET', ctx.meta, 'limits_set') or ''
  local is_set = { size = is_limit_set(set, 'size'), running = is_limit_set(set, 'running') }
  local change = { 'HSET', ctx.meta }
  for place, name in ipairs({ 'size', 'running' }) do
    local field, value = 'max_' .. name, args[place + 1]
    if value ~= '' and not (is_set[name] and tonumber(value) == ctx[field]) then
      change[#change + 1] = field
      change[#change + 1] = value
      is_set[name] = true
    end
  end
  if #change == 2 then return { 'unchanged' } end
  change[#change + 1] = 'limits_set'
  change[#change + 1] = (is_set.size and 'size' or '') .. (is_set.running and ' running' or '')
  redis.call(unpack(change))
  if args[3] ~= '' then ctx.max_running = tonumber(args[3]) end
  emit_operator(ctx, 'set', args[6], args[4], args[5] .. args[7])
  ring(ctx, 'room', '')
  AGENT.hand_over(ctx)
  retire(ctx)
  close(ctx)
  return { 'ok' }
end

register('limits', limits, DRAINS)
