--[[
lend: hands out waiting tasks of one queue to a worker outside that asks over HTTP; it holds them as an agent does.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 name of the worker, as an agent's  3 queue  4 how many at most  5 silence_ms  6 max_wait_ms
        7 whether what stands unread in the inbox of that name is handed out too ('1' or '0')
        8... names of the tasks that it carries out; none for all that wait there. They are known from then on
Returns { 'ok', started (in the form that claim answers), payloads of assignments, bells (an entry id and the streams to wait
        behind for what comes after it) } | { 'schema', found }. O(tasks).
]]
local function lend(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local agent, queue, wanted = args[2], args[3], tonumber(args[4])
  local names
  for i = 8, #args do
    names = names or {}
    names[args[i]] = true
    redis.call('ZADD', ctx.prefix .. 'handlers', ctx.now, args[i])
  end
  local assigned, inbox = {}, AGENT.inbox(ctx, agent)
  local has_inbox = args[7] == '1' and redis.call('SISMEMBER', ctx.prefix .. 'agents', agent) == 1
  if has_inbox then
    local reply = redis.pcall('XREADGROUP', 'GROUP', agent, 'http', 'COUNT', wanted, 'STREAMS', inbox, '>')
    for _, entry in ipairs(reply and not reply.err and reply[1][2] or {}) do
      if field_of(entry[2], 'event_type') == 'orchestration.task.assigned' then
        assigned[#assigned + 1] = field_of(entry[2], 'payload')
      else
        -- Word of a task that has ended; who answers for it is told so.
        redis.call('XACK', inbox, agent, entry[1])
        redis.call('XDEL', inbox, entry[1])
      end
    end
  end
  local slots = {}
  for slot = 1, wanted - #assigned do slots[slot] = 0 end
  local started, bells = take(ctx, {
    slots = slots, any = not names, names = names, queue = queue, agent = agent, consumer = 'agent:' .. agent,
    silence_ms = tonumber(args[5]), max_wait_ms = tonumber(args[6]), bells = true,
  })
  retire(ctx)
  close(ctx)
  if not bells[1] then bells[1] = string.format('%d-18446744073709551615', ctx.now - 1) end
  -- A queue that comes to be, and room under a limit, ring there.
  bells[#bells + 1] = ctx.prefix .. 'bell'
  -- Its inbox may not be there yet.
  if args[7] == '1' then bells[#bells + 1] = inbox end
  return { 'ok', started, assigned, bells }
end

register('lend', lend, DRAINS)
