--[[
leave: a replica that holds nothing any more says goodbye.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 announce ('1' or '0')
Returns { 'ok' } | { 'busy' } (it still holds tasks; nothing of them is touched) | { 'schema', found }. O(streams).
]]
local function leave(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  for _, stream in ipairs(all_streams(ctx)) do
    if #pending_of(stream, args[1], 1) > 0 then return { 'busy' } end
  end
  if args[2] == '1' and redis.call('HEXISTS', ctx.prefix .. 'beats', args[1]) == 1 then
    SPEAKER.tell_status(ctx, args[1], 'left', '0')
  end
  forget_replica(ctx, args[1])
  return { 'ok' }
end

register('leave', leave, DRAINS)
