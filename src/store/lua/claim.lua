--[[
claim: hands out waiting tasks for the caller's free slots.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 free slots ("0,3")  3 runs any task ('1' or '0')  4 max_wait_ms  5 asks by itself and wants bells ('1' or '0')
Returns { 'ok', started, bells } | { 'schema', found }. started: { task_id, attempt, slot, record as it was before };
        bells, when slots stay free: an entry id and the streams to wait behind, for what comes after it. O(slots).
]]
local function claim(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local started, bells = take(ctx, {
    slots = parse_slots(args[2]), any = args[3] == '1', max_wait_ms = tonumber(args[4]), bells = args[5] == '1',
  })
  retire(ctx)
  close(ctx)
  return { 'ok', started, bells }
end

register('claim', claim, DRAINS)
