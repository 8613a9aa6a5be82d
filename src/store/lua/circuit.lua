--[[
circuit: a replica stops claiming the tasks of one name because their target does not answer, or goes on with them.

The name leaves the set of what the replica can run, so claims park its tasks for whoever reaches the target. It stays
registered: triggers of that name are no unknown ones. Until when it is left alone is told in the replica's own hash.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 task name  3 pause_ms until one task is tried, '' closes the circuit
Returns { 'ok' } | { 'stranger' } (nobody knows the replica) | { 'unknown' } (it never registered the name) |
        { 'schema', found }; writes nothing unless ok. O(1).
]]
local function circuit(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local name = args[2]
  if redis.call('HEXISTS', ctx.prefix .. 'beats', ctx.replica) == 0 then return { 'stranger' } end
  local can, own, field = ctx.prefix .. 'can:' .. ctx.replica, ctx.prefix .. 'replica:' .. ctx.replica, CIRCUIT .. name
  local was_open = redis.call('HEXISTS', own, field) == 1
  if not was_open and redis.call('SISMEMBER', can, name) == 0 then return { 'unknown' } end
  if args[3] ~= '' then
    redis.call('HSET', own, field, iso(ctx.now + tonumber(args[3])))
    redis.call('SREM', can, name)
  else
    redis.call('SADD', can, name)
    redis.call('HDEL', own, field)
  end
  return { 'ok' }
end

register('circuit', circuit, DRAINS)
