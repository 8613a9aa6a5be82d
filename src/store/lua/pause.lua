--[[
pause: nothing more of a queue is handed out, or it is again; what runs goes on.

Tasks still enter a paused queue: new ones, retries, what is due. Who paused it, why and when stands in the hash `paused`.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 operator  2 queue  3 action: pause or resume  4 actor (JSON)  5 reason (JSON)
Returns { 'ok' } | { 'unchanged' } (it was so before) | { 'schema', found }; writes nothing unless ok. O(1).
]]
local function pause(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local paused, queue, action = ctx.prefix .. 'paused', args[2], args[3]
  local is_paused = redis.call('HEXISTS', paused, queue) == 1
  if is_paused == (action == 'pause') then return { 'unchanged' } end
  if is_paused then
    redis.call('HDEL', paused, queue)
  else
    redis.call('HSET', paused, queue,
      '{"actor":' .. args[4] .. ',"reason":' .. args[5] .. ',"paused_at":"' .. ctx.iso .. '"}')
  end
  ctx.count.paused = redis.call('HLEN', paused)
  emit_operator(ctx, action, '"' .. queue .. '"', args[4], args[5])
  AGENT.hand_over(ctx)
  retire(ctx)
  close(ctx)
  -- Also for a pause: whoever waits behind the queue's streams looks anew for what to wait behind.
  ring(ctx, action, queue)
  return { 'ok' }
end

register('pause', pause, DRAINS)
