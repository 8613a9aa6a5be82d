--[[
resume: a saga that could not undo everything tries again exactly what is left.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 saga id  3 actor (JSON string)
Returns { 'ok', word }: ok, terminal (there is nothing to resume), missing; or { 'schema', found }. O(steps).
]]
local function resume(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local group = load_group(ctx, args[2])
  local word = 'missing'
  if group and group.kind == 'saga' and group.state ~= 'S' then word = SAGA.resumed(ctx, group, args[3]) end
  follow(ctx, FOLLOW_BUDGET)
  AGENT.hand_over(ctx)
  retire(ctx)
  close(ctx)
  return { 'ok', word }
end

register('resume', resume, DRAINS)
