--[[
stop: ends a workflow or a saga before its time.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 kind (workflow or saga)  3 cause (event_id of the command, or '')  4 members (JSON members for the
        events, each with a leading comma, or '')  5 group id
Returns { 'ok', word }: ok (it stops; also when it was stopping), terminal (it had ended), missing, passed (a saga behind
        its pivot: there is no way back); or { 'schema', found }. O(tasks), in chunks.
]]
local function stop(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local kind, cause, members, id = args[2], args[3], args[4], args[5]
  local group = load_group(ctx, id)
  local word = 'ok'
  if not group then
    -- A name that tasks carry, and nobody started.
    if kind == 'workflow' and redis.call('EXISTS', ctx.prefix .. 'group:' .. id) == 1 then
      add_work(ctx, 's ' .. id .. ' 0 ' .. cause .. '\n' .. members)
    else
      word = 'missing'
    end
  elseif group.kind ~= kind or group.state == 'S' then
    word = 'missing'
  elseif kind == 'saga' then
    word = SAGA.cancelled(ctx, group, cause, members)
  elseif group.state ~= 'R' then
    word = 'terminal'
  elseif group.stop == '' then
    group.stop = cause ~= '' and cause or 'requested'
    add_work(ctx, 's ' .. id .. ' 0 ' .. cause .. '\n' .. members)
  end
  follow(ctx, FOLLOW_BUDGET)
  AGENT.hand_over(ctx)
  retire(ctx)
  count_rate(ctx)
  close(ctx)
  return { 'ok', word }
end

register('stop', stop, DRAINS)
