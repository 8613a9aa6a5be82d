--[[
trim: forgets what was kept for long enough, a bounded part of it a call.

The log is cut at its head. A task's record goes with the last event of its life, be it that a requeue began another: a
task that waits or runs stays, whatever is left of its history; see forget.lua. Dead letters are copies of their own and go by their own
time.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 age_ms of events  3 max_events  4 age_ms of dead letters ('' in all three for what another said)
        5 limit (events, and as many dead letters)  6 memory is short ('1' or '0'): new tasks are refused for the next seconds
Returns { 'ok', events, tasks, dead letters (each how many were removed), more ('1' when there is more to remove) }
        | { 'stranger' } (only a member may speak on the log) | { 'schema', found }.
        O(limit), and less where events or groups are large; every ten seconds O(queues + parked names) beside.
]]
-- How many events are read at once: few where they are large.
local TRIM_STEP_LARGE, TRIM_STEP = 10, 50
local LARGE_BYTES = 2048
-- A call ends early when what it read and searched amounts to so many bytes.
local TRIM_BYTES = 524288
-- Removals are told of at most so often; more of them are told of together.
local TELL_MS = 60000
local TIDY_MS = 10000
-- A queue that nothing entered for so long is forgotten.
local QUEUE_IDLE_MS = 86400000
-- What is kept where nobody ever said: a day, a million events, thirty days.
local KEPT = { '86400000', '1000000', '2592000000' }
-- For how long one report of short memory counts.
local TIGHT_MS = 3000

-- The kinds of events that can not be the last of a task.
local GOES_ON = {
  ['orchestration.task.created'] = true, ['orchestration.task.started'] = true, ['orchestration.task.released'] = true,
  ['orchestration.task.retry_scheduled'] = true, ['orchestration.task.requeued'] = true,
}

-- Cuts the head off the log. Answers how many events went, how many of them are worth telling, how many tasks went with
-- them, the last entry that went, and whether there is more.
local function trim_events(ctx, age_ms, max_events, limit)
  local length = redis.call('XLEN', ctx.events)
  -- One more than is over, for the event that tells of it.
  local surplus = length > max_events and length - max_events + 1 or 0
  local oldest = ctx.now - age_ms
  local removed, worth, tasks, spent = 0, 0, 0, 0
  local last
  -- Most of the time the first is there to stay.
  local more, step = true, 1
  while more and removed < limit and spent < TRIM_BYTES do
    local from = last and '(' .. last or '-'
    local entries = redis.call('XRANGE', ctx.events, from, '+', 'COUNT', math.min(step, limit - removed))
    more = #entries > 0
    for _, entry in ipairs(entries) do
      if removed >= surplus and entry_numbers(entry[1]) > oldest then
        more = false
        break
      end
      if spent >= TRIM_BYTES then break end
      local fields = entry[2]
      local kind, payload = field_of(fields, 'event_type'), field_of(fields, 'payload')
      local subject, seq = string.match(field_of(fields, 'event_id'), '^(.*)/(%d+)$')
      spent = spent + #payload
      if subject and string.sub(kind, 1, 19) == 'orchestration.task.' then
        if not GOES_ON[kind] then
          local gone, cost = forget_with(ctx, subject, tonumber(seq))
          tasks, spent = tasks + gone, spent + cost
        end
      elseif subject and (string.sub(kind, 1, 23) == 'orchestration.workflow.' or string.sub(kind, 1, 19) == 'orchestration.saga.') then
        forget_group_with(ctx, subject, tonumber(seq))
      elseif subject and kind == 'orchestration.command.refused' then
        redis.call('DEL', ctx.prefix .. 'refused:' .. subject)
      end
      -- That something was removed is not told of again when that goes too, or a log at rest would never be.
      if kind ~= 'orchestration.operator.action' or not string.find(payload, '"action":"trim"', 1, true) then
        worth = worth + 1
      end
      removed, last = removed + 1, entry[1]
    end
    step = spent < removed * LARGE_BYTES and TRIM_STEP or TRIM_STEP_LARGE
  end
  if last then
    local ms, seq = string.match(last, '^(%d+)-(%d+)$')
    redis.call('XTRIM', ctx.events, 'MINID', '=', ms .. '-' .. string.format('%d', tonumber(seq) + 1))
  end
  return removed, worth, tasks, last, more
end

-- Removes dead letters by their time. Answers how many, and whether there are more.
local function expire_letters(ctx, age_ms, limit)
  local dead = ctx.prefix .. 'dead'
  local ids = redis.call('ZRANGEBYSCORE', dead, '-inf', string.format('%d', ctx.now - age_ms), 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do redis.call('UNLINK', dead .. ':' .. id) end
  for first = 1, #ids, CHUNK do
    redis.call('ZREM', dead, unpack(ids, first, math.min(first + CHUNK - 1, #ids)))
  end
  return #ids, #ids == limit
end

-- Removes four streams in which nothing waits or runs and which nothing entered since `oldest`; answers whether it did.
local function forget_streams(streams, oldest)
  for rank = 0, 3 do
    local info = redis.pcall('XINFO', 'STREAM', streams[rank])
    if not info.err then
      local fields = {}
      for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
      if fields['length'] > 0 or entry_numbers(fields['last-generated-id']) > oldest then return false end
      local pending = redis.pcall('XPENDING', streams[rank], GROUP)
      if not pending.err and pending[1] > 0 then return false end
    elseif string.find(info.err, 'WRONGTYPE', 1, true) then
      -- Whatever it is, it is somebody's.
      return false
    end
  end
  redis.call('UNLINK', streams[0], streams[1], streams[2], streams[3])
  return true
end

-- Whether tasks of a queue wait or run elsewhere than in its own streams. What stands beside it for agents is handed over only
-- as long as the queue is known.
local function is_used_aside(ctx, queue)
  if redis.call('SISMEMBER', ctx.prefix .. 'desks', queue) == 1 then return true end
  for rank = 0, 3 do
    if redis.call('HEXISTS', ctx.prefix .. 'aside', rank .. queue) == 1 then return true end
  end
  return false
end

-- Forgets names that nobody needs any more.
local function tidy(ctx, kept)
  local known = tonumber(redis.call('HGET', ctx.meta, 'tidied_ms')) or 0
  if known <= ctx.now and ctx.now - known < TIDY_MS then return end
  redis.call('HSET', ctx.meta, 'tidied_ms', string.format('%d', ctx.now), 'kept_age_ms', string.format('%d', kept[1]),
    'kept_events', string.format('%d', kept[2]), 'kept_letters_ms', string.format('%d', kept[3]))
  redis.call('ZREMRANGEBYSCORE', ctx.prefix .. 'handlers', '-inf', string.format('%d', ctx.now - HANDLER_MEMORY_MS))
  for _, name in ipairs(redis.call('SMEMBERS', ctx.prefix .. 'parks')) do
    local streams = {}
    for rank = 0, 3 do streams[rank] = park_stream(ctx, name, rank) end
    if forget_streams(streams, math.huge) then redis.call('SREM', ctx.prefix .. 'parks', name) end
  end
  AGENT.tidy(ctx, kept[1], forget_streams)
  for _, name in ipairs(queue_names(ctx)) do
    if name ~= 'default' and not is_used_aside(ctx, name) then
      local streams = {}
      for rank = 0, 3 do streams[rank] = queue_stream(ctx, name, rank) end
      if forget_streams(streams, ctx.now - QUEUE_IDLE_MS) then redis.call('SREM', ctx.prefix .. 'queues', name) end
    end
  end
end

-- Says on the log what was removed since it was last said.
local function tell_trimmed(ctx)
  local known = redis.call('HMGET', ctx.meta, 'untold_events', 'untold_tasks', 'untold_letters', 'told_ms', 'trimmed_to')
  local events, tasks, letters = tonumber(known[1]) or 0, tonumber(known[2]) or 0, tonumber(known[3]) or 0
  local told = tonumber(known[4]) or 0
  if events + tasks + letters == 0 or (told <= ctx.now and ctx.now - told < TELL_MS) then return end
  redis.call('HSET', ctx.meta, 'untold_events', 0, 'untold_tasks', 0, 'untold_letters', 0, 'told_ms',
    string.format('%d', ctx.now))
  SPEAKER.tell(ctx, ctx.replica, 'orchestration.operator.action', string.format(
    '"action":"trim","target":"events","actor":"%s","reason":"retention","events":%d,"tasks":%d,"dead_letters":%d,"trimmed_to":%s',
    ctx.replica, events, tasks, letters, known[5] and '"' .. known[5] .. '"' or 'null'))
end

local function trim(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  if redis.call('HEXISTS', ctx.prefix .. 'beats', ctx.replica) == 0 then return { 'stranger' } end
  local limit = tonumber(args[5])
  local kept = { args[2], args[3], args[4] }
  if kept[1] == '' then kept = redis.call('HMGET', ctx.meta, 'kept_age_ms', 'kept_events', 'kept_letters_ms') end
  for i = 1, 3 do kept[i] = tonumber(kept[i] or KEPT[i]) end
  if args[6] == '1' then redis.call('HSET', ctx.meta, 'tight_ms', string.format('%d', ctx.now + TIGHT_MS)) end

  local events, worth, tasks, last, more = trim_events(ctx, kept[1], kept[2], limit)
  local members, more_members = forget_members(ctx, limit)
  tasks = tasks + members
  local more_staged = forget_staged(ctx, limit)
  local letters, more_letters = expire_letters(ctx, kept[3], limit)
  if last then
    redis.call('HSET', ctx.meta, 'trimmed_to', last)
    redis.call('HINCRBY', ctx.meta, 'trimmed_events', events)
    redis.call('HINCRBY', ctx.meta, 'untold_events', worth)
  end
  if tasks > 0 then
    redis.call('HINCRBY', ctx.meta, 'trimmed_tasks', tasks)
    redis.call('HINCRBY', ctx.meta, 'untold_tasks', tasks)
  end
  if letters > 0 then redis.call('HINCRBY', ctx.meta, 'untold_letters', letters) end
  local is_more = more or more_members or more_staged or more_letters
  if not is_more then
    tidy(ctx, kept)
    tell_trimmed(ctx)
  end
  close(ctx)
  return { 'ok', events, tasks, letters, is_more and '1' or '0' }
end

register('trim', trim, DRAINS)
