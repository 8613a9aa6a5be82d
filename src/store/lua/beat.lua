--[[
beat: a replica says that it lives and what it holds, and learns what is not its own any more and what it holds
unknowingly.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 beat (counts up)  3 since_ms (pending entries idle for at least this long should be known to the
        replica; -1 = do not look)  4 busy slots  5 workers  6 completed  7 failed  8 register names again ('1' or '0')
        9 detached (busy slots whose attempt is over)  10... task_id, attempt of everything it holds
Returns { 'ok', gone, lost } | { 'stranger' } (nobody knows the replica: it must join anew) | { 'schema', found }.
        gone: ids that are not the replica's any more; lost: claimed for it by a call whose answer it never got, in
        the form that claim answers. O(held tasks + streams).
]]
local function beat(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local replica, since_ms = args[1], tonumber(args[3])
  if redis.call('HEXISTS', ctx.prefix .. 'beats', replica) == 0 then return { 'stranger' } end
  redis.call('HSET', ctx.prefix .. 'beats', replica, args[2])
  redis.call('HSET', ctx.prefix .. 'replica:' .. replica, 'seen_ms', string.format('%d', ctx.now), 'busy', args[4],
    'workers', args[5], 'completed', args[6], 'failed', args[7], 'detached', args[9])
  if args[8] == '1' then
    for _, names in ipairs({ redis.call('SMEMBERS', ctx.prefix .. 'can:' .. replica), open_circuits(ctx, replica) }) do
      for _, name in ipairs(names) do redis.call('ZADD', ctx.prefix .. 'handlers', ctx.now, name) end
    end
    for name in string.gmatch(redis.call('HGET', ctx.prefix .. 'replica:' .. replica, 'assigns') or '', '%S+') do
      redis.call('ZADD', ctx.prefix .. 'handlers', ctx.now, name)
    end
  end

  local ids, held, gone = {}, {}, {}
  for i = 10, #args, 2 do
    ids[#ids + 1] = args[i]
    held[args[i]] = tonumber(args[i + 1])
  end
  for _, id in ipairs(ids) do
    -- Only the header: what is held may be large, and this is asked every two seconds.
    local h = read_header(load_front(ctx, id, HEADER_BYTES))
    if not h or h[STATE] ~= RUNNING or h[OWNER] ~= replica or h[ATTEMPT] ~= held[id] then
      gone[#gone + 1] = id
    elseif has(h, IS_STEP) then
      -- Told again: the bell may have rung before the replica knew that it holds the step.
      local _, group = read_short(ctx, id)
      if SAGA.gives_up(ctx, group) then ring(ctx, 'abort', id) end
    end
  end

  local lost = {}
  if since_ms >= 0 then
    for _, stream in ipairs(all_streams(ctx)) do
      for _, pending in ipairs(pending_of(stream, replica, 1000)) do
        local id = task_of_entry(stream, pending[1])
        if id and not held[id] then
          local raw = load_record(ctx, id)
          local h = read_header(raw)
          -- What was given in a time that is yet to come is old as well: the clock went back since.
          local is_old = pending[3] >= since_ms or (h and h[STARTED] > ctx.now)
          if is_old and h and h[STATE] == RUNNING and h[OWNER] == replica then
            local one = { id, h[ATTEMPT], h[SLOT], raw }
            if has(h, HAS_DEPENDENCIES) then
              local _, _, _, _, group = read_body(raw)
              one[5] = read_inputs(ctx, id, h, group)
            end
            lost[#lost + 1] = one
          elseif is_old and waits_in(ctx, h, pending[1]) then
            line_up(ctx, stream, pending[1], id, raw, h)
          end
        end
      end
    end
    retire(ctx)
    close(ctx)
  end
  return { 'ok', gone, lost }
end

register('beat', beat, DRAINS)
