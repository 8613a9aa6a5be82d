--[[
inspect: looks at tasks and dead letters as they are at one moment, together with how far the log was written then.

Whoever reads the log up to the entry that is answered must come to the same: nothing happens between the look and the
number. So an audit of a system at work needs no second look and raises no false alarm.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica (or '-')  2 the last entry that the caller read of the log, '' for none  3 whether to measure what
        only a walk over all streams tells ('1' or '0')  4 number of tasks  5... that many task ids, then dead letters
Returns { 'ok', last entry of the log, stands ('0' when the caller's entry is gone although nobody trimmed it: history went
        back), facts (fields of meta and what was measured, name and value in turn), tasks, letters ('1' or '0' for each) }
        | { 'schema', found }. A task is {} without a record, else { state, place, rank, flags, attempt, retries, max_retries,
        seq, owner, excepted ('1' behind a saga's pivot, where no number of retries is too many), word and detail of what is
        wrong about where it is ('' when nothing is) }. Writes nothing. O(tasks + letters), and O(streams) to measure.
]]
local function last_entry(ctx)
  local newest = redis.call('XREVRANGE', ctx.events, '+', '-', 'COUNT', 1)[1]
  return newest and newest[1] or '0-0'
end

-- Whether an entry that was read once is still there, or was removed with all before it.
local function stands(ctx, entry)
  if entry == '' or entry == '0-0' then return '1' end
  if redis.call('XRANGE', ctx.events, entry, entry)[1] then return '1' end
  local trimmed = redis.call('HGET', ctx.meta, 'trimmed_to')
  if not trimmed then return '0' end
  local ms, seq = entry_numbers(entry)
  local upto_ms, upto_seq = entry_numbers(trimmed)
  return (ms < upto_ms or (ms == upto_ms and seq <= upto_seq)) and '1' or '0'
end

-- What only a walk over the streams tells, added to the facts.
local function measure(ctx, facts)
  local parked, handing = 0, 0
  for _, name in ipairs(redis.call('SMEMBERS', ctx.prefix .. 'parks')) do
    for rank = 0, 3 do
      local stream = park_stream(ctx, name, rank)
      local length = STREAM.call('XLEN', stream) or 0
      local summary = length > 0 and redis.pcall('XPENDING', stream, GROUP)
      parked = parked + length - (summary and not summary.err and summary[1] or 0)
    end
  end
  for _, queue in ipairs(redis.call('SMEMBERS', ctx.prefix .. 'desks')) do
    for rank = 0, 3 do
      local stream = AGENT.stream(ctx, queue, rank)
      local summary = redis.pcall('XPENDING', stream, GROUP)
      handing = handing + (STREAM.call('XLEN', stream) or 0) - (not summary.err and summary[1] or 0)
    end
  end
  local function fact(name, value)
    facts[#facts + 1] = name
    facts[#facts + 1] = value
  end
  local groups = redis.call('HGETALL', ctx.prefix .. 'groups')
  for i = 1, #groups, 2 do fact('groups ' .. groups[i], groups[i + 1]) end
  fact('measured_parked', parked)
  fact('measured_handing', handing)
  fact('measured_staging', redis.call('ZCARD', ctx.prefix .. 'staging'))
  fact('measured_backlog', redis.call('LLEN', ctx.prefix .. 'work'))
  fact('measured_shifting', redis.call('ZCARD', ctx.prefix .. 'shifting'))
  fact('measured_dead', redis.call('ZCARD', ctx.prefix .. 'dead'))
  local info = redis.pcall('XINFO', 'STREAM', ctx.events)
  if not info.err then
    for i = 1, #info, 2 do
      if info[i] == 'length' then fact('log_length', info[i + 1]) end
      if info[i] == 'entries-added' then fact('log_added', info[i + 1]) end
    end
  end
end

-- Whether a step is tried for as long as it takes.
local function is_excepted(ctx, h, group)
  if not has(h, IS_STEP) then return '0' end
  local saga = string.match(group, '^(%S+) ')
  local passed = saga and redis.call('HGET', ctx.prefix .. 'w:' .. saga, 'passed')
  return passed and passed ~= '' and '1' or '0'
end

local function inspect(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local facts = redis.call('HGETALL', ctx.meta)
  facts[#facts + 1] = 'now_ms'
  facts[#facts + 1] = string.format('%d', ctx.now)
  if args[3] == '1' then measure(ctx, facts) end
  local tasks, letters, count = {}, {}, tonumber(args[4])
  for at = 5, 4 + count do
    local id = args[at]
    local h, queue, name, group = sight(ctx, id)
    if h then
      local word, detail = disagreement(ctx, id, h, queue, name)
      tasks[#tasks + 1] = { h[STATE], h[PLACE], h[RANK], h[FLAGS], h[ATTEMPT], h[RETRIES], h[MAX_RETRIES], h[SEQ],
        h[OWNER] == AGENT.OWNER and AGENT.worker(ctx, id, h) or h[OWNER], is_excepted(ctx, h, group), word or '', detail or '' }
    else
      tasks[#tasks + 1] = {}
    end
  end
  for at = 5 + count, #args do
    letters[#letters + 1] = redis.call('EXISTS', ctx.prefix .. 'dead:' .. args[at]) == 1
      and redis.call('ZSCORE', ctx.prefix .. 'dead', args[at]) and '1' or '0'
  end
  return { 'ok', last_entry(ctx), stands(ctx, args[2]), facts, tasks, letters }
end

register('inspect', inspect, LOOKS)

--[[
survey: walks over a part of what tasks stand in, and names what belongs to no task.

KEYS    as inspect
ARGV    1 replica (or '-')  2 what: entries or pending (of the stream in 3), timers, letters, limits  3 the stream's name behind the
        partition's prefix, or ''  4 cursor ('' at the beginning)  5 how many at most
Returns { 'ok', last entry of the log, next cursor ('' at the end), how many were looked at, rows } | { 'schema', found }.
        A row of entries, pending, timers and limits is { word, entry or task, task, detail }; of letters it is { word (ok, or gone
        where the copy is missing), dead letter, ms of its making, '' }, and all of them come. Each row holds at one moment.
        Writes nothing. O(limit).
]]
local function survey(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local what, stream, cursor, limit = args[2], ctx.prefix .. args[3], args[4], tonumber(args[5])
  local rows, looked, next_cursor = {}, 0, ''
  if what == 'entries' then
    local found = STREAM.range(stream, cursor == '' and '-' or '(' .. cursor, '+', limit)
    for _, entry in ipairs(found) do
      local id = entry[2] and entry[2][2]
      local word, detail = entry_disagreement(ctx, stream, entry[1], id)
      if word then rows[#rows + 1] = { word, entry[1], id or '', detail } end
    end
    looked = #found
    if looked == limit then next_cursor = found[looked][1] end
  elseif what == 'pending' then
    local found = redis.pcall('XPENDING', stream, GROUP, cursor == '' and '-' or '(' .. cursor, '+', limit)
    if found.err then found = {} end
    for _, entry in ipairs(found) do
      local word, detail, id = pending_disagreement(ctx, stream, entry[1], entry[2])
      if word then rows[#rows + 1] = { word, entry[1], id, detail ~= '' and detail or entry[2] } end
    end
    looked = #found
    if looked == limit then next_cursor = found[looked][1] end
  elseif what == 'limits' then
    local at = cursor == '' and 1 or tonumber(cursor)
    local found, count, name = miscounted_tasks(ctx, at)
    for _, one in ipairs(found) do rows[#rows + 1] = { 'miscounted', one[1], one[1], one[2] } end
    looked = count
    if name then next_cursor = digits(at + 1) end
  else
    local set = ctx.prefix .. (what == 'timers' and 'timers' or 'dead')
    local reply = redis.call('ZSCAN', set, cursor == '' and '0' or cursor, 'COUNT', limit)
    if reply[1] ~= '0' then next_cursor = reply[1] end
    for i = 1, #reply[2], 2 do
      local member, score = reply[2][i], reply[2][i + 1]
      looked = looked + 1
      if what == 'timers' then
        local word, detail = timer_disagreement(ctx, member)
        if word then rows[#rows + 1] = { word, member, member, detail } end
      else
        local word = redis.call('EXISTS', ctx.prefix .. 'dead:' .. member) == 1 and 'ok' or 'gone'
        rows[#rows + 1] = { word, member, string.format('%d', tonumber(score)), '' }
      end
    end
  end
  return { 'ok', last_entry(ctx), next_cursor, looked, rows }
end

register('survey', survey, LOOKS)
