--[[
reject: keeps inbound events that can not be accepted, and says why.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica, then nine for each: subject (the dead letter's id, or the entry id of a refused command), kind
        ('trigger' or 'command'), event_id, correlation_id, reason, errors (JSON list), members (JSON members of the
        event), original (netstrings of field and value in turn), cut ("bytes sha256" of the whole where only its
        beginning is kept, else '')
Returns { 'ok', { word, ... } } with ok or duplicate (kept before; nothing changed); or { 'schema', found }. O(events).
]]
local REJECT_ARGS = 9
-- How long a refused command is remembered, so that a second delivery is not refused a second time.
local REFUSAL_MEMORY_S = 86400

local function reject(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local words = {}
  for at = 2, #args - REJECT_ARGS + 1, REJECT_ARGS do
    local subject, kind, event_id, correlation, reason, errors, members, original, cut =
      unpack(args, at, at + REJECT_ARGS - 1)
    local payload = '{"reason":"' .. reason .. '","errors":' .. errors .. ',' .. members .. '}'
    local is_new
    if kind == 'trigger' then
      local key = ctx.prefix .. 'dead:' .. subject
      is_new = redis.call('EXISTS', key, ctx.prefix .. 'gone:' .. subject) == 0
      if is_new then
        redis.call('HSET', key, 'kind', 'trigger', 'reason', reason, 'error', errors, 'trigger_event_id', event_id,
          'correlation_id', correlation, 'dead_lettered_at', ctx.iso, 'original', original)
        if cut ~= '' then redis.call('HSET', key, 'cut', cut) end
        redis.call('ZADD', ctx.prefix .. 'dead', ctx.now, subject)
        emit(ctx, 'orchestration.trigger.rejected', subject, 1, correlation, event_id, payload)
      end
    else
      is_new = redis.call('SET', ctx.prefix .. 'refused:' .. subject, '1', 'EX', REFUSAL_MEMORY_S, 'NX')
      if is_new then emit(ctx, 'orchestration.command.refused', subject, 1, correlation, event_id, payload) end
    end
    words[#words + 1] = is_new and 'ok' or 'duplicate'
  end
  close(ctx)
  return { 'ok', words }
end

-- Moves bytes from the stream to the dead letters; were it refused, a bad event would stop the reader.
register('reject', reject, DRAINS)
