--[[
limits: changes max_size or max_running for all replicas at once; from then on configuration files no longer do.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 max_size or ''  3 max_running or ''
Returns { 'ok' } | { 'schema', found }. O(1).
]]
local function limits(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  if args[2] ~= '' then redis.call('HSET', ctx.meta, 'max_size', args[2], 'limits_set', '1') end
  if args[3] ~= '' then redis.call('HSET', ctx.meta, 'max_running', args[3], 'limits_set', '1') end
  ring(ctx, 'room', '')
  return { 'ok' }
end

register('limits', limits, DRAINS)
