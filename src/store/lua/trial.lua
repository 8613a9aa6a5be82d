--[[
trial: hands out one parked task of one name, although its circuit is open, to see whether the target is back.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 free slot  3 task name
Returns { 'ok', started } with none or one, in the form that claim answers, none where the caller holds no circuit of
        that name open; or { 'schema', found }. O(1).
]]
local function trial(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local is_open = redis.call('HEXISTS', ctx.prefix .. 'replica:' .. ctx.replica, CIRCUIT .. args[3]) == 1
  local slots = is_open and { tonumber(args[2]) } or {}
  local started = take(ctx, { slots = slots, only = args[3], max_wait_ms = 0 })
  retire(ctx)
  close(ctx)
  return { 'ok', started }
end

register('trial', trial, DRAINS)
