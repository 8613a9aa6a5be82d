--[[
requeue: takes tasks out of the dead letters and lets them wait again; never refused for a limit.

A record that was forgotten meanwhile is made again from the copy in the dead letter.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 actor (JSON)  3 reason (JSON)
        then three for each: dead letter (`<task>.<attempt>`), body ('' to leave the task as it is), max_retries (or '')
Returns { 'ok', { { word, detail }, ... } } in order: ok with the life that begins, duplicate with the life that an earlier
        call began from this dead letter, illegal with the letter of the state that the task is in instead, saga (only
        resuming its saga may), inputs (it was forgotten, and with it the results that it needs), other with the kind of a
        dead letter that holds no task, missing; or { 'schema', found }. Where records are large the last ones may be left
        for another call: they have no answer. O(dead letters).
]]
local REQUEUE_ARGS = 3
-- A call ends early when it has moved so many bytes.
local REQUEUE_BYTES = 1048576

-- The record of a dead letter's task as it was when it was buried, with what is kept beside it.
local function unearth(ctx, id, key, header, body, life)
  local fields = redis.call('HGETALL', key)
  local notes = { 'HSET', attempts_key(ctx, id), 'life', life }
  for i = 1, #fields, 2 do
    if string.find(fields[i], '^a%d+$') then
      notes[#notes + 1] = fields[i]
      notes[#notes + 1] = fields[i + 1]
    end
  end
  redis.call(unpack(notes))
  local raw = header .. body
  local _, _, _, _, group = read_body(raw)
  if group ~= '' then redis.call('RPUSH', ctx.prefix .. 'group:' .. group, id) end
  return raw
end

local function requeue_one(ctx, letter, body, max_retries, actor, reason)
  local id, attempt = string.match(letter, '^(.+)%.(%w+)$')
  if not id then return { 'missing' } end
  local key = ctx.prefix .. 'dead:' .. letter
  local kind, kept_body, header, correlation, life =
    unpack(redis.call('HMGET', key, 'kind', 'body', 'header', 'correlation_id', 'life'))
  if not kind then
    local begun = redis.call('HGET', attempts_key(ctx, id), 'r' .. attempt)
    if begun then return { 'duplicate', begun } end
    return { 'missing' }
  end
  if not kept_body or not header then return { 'other', kind } end
  local kept = read_header(header)
  if has(kept, IS_STEP) or has(kept, IS_COMPENSATION) then return { 'saga' } end
  local raw = load_record(ctx, id)
  local found = read_header(raw)
  if found and ((found[STATE] ~= FAILED and found[STATE] ~= TIMEOUT) or found[ATTEMPT] ~= tonumber(attempt)) then
    return { 'illegal', string.char(found[STATE]) }
  end
  -- What it would be given was forgotten with its group.
  if not raw and has(kept, HAS_DEPENDENCIES) then return { 'inputs' } end
  raw = raw or unearth(ctx, id, key, header, kept_body, life)
  local h = read_header(raw)
  if body ~= '' then
    raw = string.sub(raw, 1, HEADER_BYTES) .. body
    h[BODY] = #body
  end
  if max_retries ~= '' then h[MAX_RETRIES] = tonumber(max_retries) end
  ctx.moved = ctx.moved + #raw
  local cause = emit_operator(ctx, 'requeue', '"' .. letter .. '"', actor, reason, correlation)
  return { 'ok', revive(ctx, id, raw, h, cause, actor) }
end

local function requeue(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local answers = {}
  ctx.moved = 0
  for at = 4, #args - REQUEUE_ARGS + 1, REQUEUE_ARGS do
    answers[#answers + 1] = requeue_one(ctx, args[at], args[at + 1], args[at + 2], args[2], args[3])
    if ctx.moved >= REQUEUE_BYTES then break end
  end
  AGENT.hand_over(ctx)
  retire(ctx)
  close(ctx)
  return { 'ok', answers }
end

register('requeue', requeue, ADDS)
