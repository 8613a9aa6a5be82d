--[[
discard: removes dead letters for good, and says who did it.

A trigger lies outside the partitions, so what puts one back on its stream does that first and then calls this: should
it die in between, the trigger comes a second time under the same event_id and makes nothing new.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 action: discard, or requeue (of triggers that were put back on their stream)  3 actor (JSON)
        4 reason (JSON)  5... dead letters
Returns { 'ok', { word, ... } } in order: ok, duplicate (put back before; nothing changed), missing; or { 'schema', found }.
        O(dead letters).
]]
-- How long it is remembered what became of a trigger's dead letter: a second call learns that it was put back, and a
-- second delivery of the entry that it came from makes no second letter.
local LETTER_MEMORY_S = 86400

local function discard(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local action, actor, reason = args[2], args[3], args[4]
  local words = {}
  for at = 5, #args do
    local letter = args[at]
    local key, memory = ctx.prefix .. 'dead:' .. letter, ctx.prefix .. 'gone:' .. letter
    local kind, correlation, event_id = unpack(redis.call('HMGET', key, 'kind', 'correlation_id', 'trigger_event_id'))
    if kind then
      emit_operator(ctx, action, '"' .. letter .. '"', actor, reason, correlation)
      remove_letter(ctx, letter)
      if kind == 'trigger' then redis.call('SET', memory, action .. ' ' .. event_id, 'EX', LETTER_MEMORY_S) end
      words[#words + 1] = 'ok'
    else
      local fate = action == 'requeue' and redis.call('GET', memory)
      local was_put_back = fate and string.sub(fate, 1, 8) == 'requeue '
      words[#words + 1] = was_put_back and 'duplicate' or 'missing'
    end
  end
  close(ctx)
  return { 'ok', words }
end

register('discard', discard, DRAINS)
