--[[
join: a replica makes itself known, and the partition's keys are made where they are missing.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists; makes a half-migrated slot answer TRYAGAIN
ARGV    1 replica  2 partitions  3 max_size or ''  4 max_running or ''  5 workers ('' only makes the keys: the caller
        publishes or asks, and never holds a task)  6 started_at (RFC 3339)  7 announce ('1' or '0')  8... names of the tasks it can
        run, or "name agent silence_ms timeout_ms" where an agent carries them out; each with " most" behind it where no more than so
        many may run at a time
Returns { 'ok' } | { 'schema', found } | { 'partitions', found }; writes nothing unless ok. O(names + replicas), and where a limit is new
        O(running tasks), in chunks.
]]
local function join(keys, args)
  local meta, replica = keys[1], args[1]
  local found = redis.call('HMGET', meta, 'schema', 'partitions', 'limits_set')
  if found[1] and found[1] ~= SCHEMA then return { 'schema', found[1] } end
  if found[2] and found[2] ~= args[2] then return { 'partitions', found[2] } end
  redis.call('HSET', meta, 'schema', SCHEMA, 'partitions', args[2])
  -- Keys that were lost and made anew are not those that somebody remembers.
  redis.call('HSETNX', meta, 'foundation', replica .. '@' .. digits(now_ms()))
  -- What an operator has set stays, whatever is configured.
  local set = found[3] or ''
  if args[3] ~= '' and not is_limit_set(set, 'size') then redis.call('HSET', meta, 'max_size', args[3]) end
  if args[4] ~= '' and not is_limit_set(set, 'running') then redis.call('HSET', meta, 'max_running', args[4]) end
  local ctx = open(keys, replica)
  ensure_queue(ctx, 'default')
  if args[5] == '' then return { 'ok' } end
  local is_new = redis.call('HSETNX', ctx.prefix .. 'beats', replica, 0) == 1
  redis.call('HSET', ctx.prefix .. 'replica:' .. replica, 'workers', args[5], 'started_at', args[6], 'seen_ms',
    string.format('%d', ctx.now))
  local assigns, limited, most = {}, {}, {}
  for i = 8, #args do
    local name, rest = string.match(args[i], '^(%S+) ?(.*)$')
    local agent, limit = string.match(rest, '^(%S+ %d+ %d+) ?(%d*)$')
    redis.call('ZADD', ctx.prefix .. 'handlers', ctx.now, name)
    if agent then
      redis.call('HSET', ctx.prefix .. 'agent_names', name, agent)
      AGENT.make_inbox(ctx, string.match(agent, '^%S+'))
      assigns[#assigns + 1] = name
    else
      redis.call('SADD', ctx.prefix .. 'can:' .. replica, name)
      -- A task of this name is the handler's from now on.
      if ctx.count.agent_names > 0 then redis.call('HDEL', ctx.prefix .. 'agent_names', name) end
      limit = rest
    end
    if limit ~= '' then
      limited[#limited + 1] = name
      most[name] = limit
    end
  end
  if #assigns > 0 then redis.call('HSET', ctx.prefix .. 'replica:' .. replica, 'assigns', table.concat(assigns, ' ')) end
  if #assigns > 0 or ctx.count.agent_names > 0 then
    redis.call('HSET', meta, 'agent_names', redis.call('HLEN', ctx.prefix .. 'agent_names'))
  end
  LIMIT.say(ctx, replica, limited, most)
  if is_new and args[7] == '1' then
    SPEAKER.tell_status(ctx, replica, 'joined', args[5])
  end
  ring(ctx, 'joined', replica)
  follow(ctx, FOLLOW_BUDGET)
  close(ctx)
  return { 'ok' }
end

register('join', join, DRAINS)
