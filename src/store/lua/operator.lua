--[[
operator: says on the log what an operator did, in the same call as the change.

An operator is whoever calls a function by hand: a command line, a program, an HTTP caller. Its id is the subject (see
event.lua), and its events are numbered in a counter of that id. An id is drawn for each command or request and never is a
replica's, whose counter goes when it leaves; this one goes some time after the last action.
]]
local emit_operator
do
  -- Longer than any process goes between two actions of its own and still counts on.
  local OPERATOR_MEMORY_S = 30 * 86400

  -- `target`, `actor` and `reason` are JSON: a text in quotes, or null. The action belongs to the chain `correlation`, or
  -- begins one. Answers its event_id, which is the cause of what follows from it.
  emit_operator = function(ctx, action, target, actor, reason, correlation)
    local subject, counter = SPEAKER.subject(ctx, ctx.replica), ctx.prefix .. 'replica:' .. ctx.replica
    local seq = redis.call('HINCRBY', counter, 'seq', 1)
    if redis.call('HEXISTS', ctx.prefix .. 'beats', ctx.replica) == 0 then redis.call('EXPIRE', counter, OPERATOR_MEMORY_S) end
    local event_id = string.format('%s/%d', subject, seq)
    emit(ctx, 'orchestration.operator.action', subject, seq, correlation or event_id, event_id,
      '{"action":"' .. action .. '","target":' .. target .. ',"actor":' .. actor .. ',"reason":' .. reason .. '}')
    return event_id
  end
end
