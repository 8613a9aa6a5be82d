--[[
report: a replica says how many workers it has and what each did, and learns how many it should have.

A wish (see scale.lua) stands in the replica's own hash until the report that follows it. The figures of the workers are
one string with an end of its own, so that nothing has to be cleared away.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 state: running or draining  3 workers  4 min_workers  5 max_workers  6 moves by itself between the two
        ('1' or '0')  7 number of the last wish that was carried out  8 figures of the workers, see src/store/workers.rs;
        '' says nothing of them
Returns { 'ok', wish } | { 'stranger' } (nobody knows the replica) | { 'schema', found }. wish: '' or
        'number workers max_workers'. O(1).
]]
-- Several times as long as any replica leaves between two reports.
local FIGURES_S = 120

local function report(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local replica, state, workers = ctx.replica, args[2], args[3]
  if redis.call('HEXISTS', ctx.prefix .. 'beats', replica) == 0 then return { 'stranger' } end
  local own = ctx.prefix .. 'replica:' .. replica
  local known = redis.call('HMGET', own, 'state', 'reported', 'wish')
  redis.call('HSET', own, 'state', state, 'workers', workers, 'reported', workers, 'min', args[4], 'max', args[5],
    'autoscale', args[6], 'applied', args[7])
  if args[8] ~= '' then
    redis.call('SET', ctx.prefix .. 'figures:' .. replica, string.format('%d ', ctx.now) .. args[8], 'EX', FIGURES_S)
  end
  if known[2] and known[2] ~= workers then
    SPEAKER.tell_status(ctx, replica, 'scaled', workers)
  end
  if state == 'draining' and known[1] ~= state then
    SPEAKER.tell_status(ctx, replica, 'draining', workers)
  end
  local wish = known[3] or ''
  if tonumber(string.match(wish, '^%d+') or 0) <= tonumber(args[7]) then wish = '' end
  return { 'ok', wish }
end

register('report', report, DRAINS)
