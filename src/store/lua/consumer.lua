--[[
consumer: what stands under a replica's name: in the groups of the streams, and in its own hash.
]]

-- Entries of a stream that are delivered to a consumer and not finished; nothing where the group is missing.
local function pending_of(stream, consumer, count)
  local reply = redis.pcall('XPENDING', stream, GROUP, '-', '+', count, consumer)
  if reply.err then return {} end
  return reply
end

-- Lets a task wait at the tail of its priority whose entry is held although it does not run: a call that failed half way
-- took it out of the line, and nobody would be given it any more.
local function line_up(ctx, stream, entry, id, raw, h)
  local queue = read_body(raw)
  local ms, seq = entry_numbers(entry)
  finish_entry(ctx, stream, ms, seq)
  if h[PLACE] == PARKED then
    ctx.count.parked = ctx.count.parked - 1
    aside(ctx, queue, h[RANK], -1)
  end
  enqueue(ctx, id, h, queue)
  save(ctx, task_key(ctx, id), raw, h)
end

-- Whether a task waits in this very entry.
local function waits_in(ctx, h, entry)
  return h and h[STATE] == PENDING and (h[PLACE] == QUEUED or h[PLACE] == PARKED) and entry_id(ctx, h) == entry
end

-- What the fields of a replica's hash begin with that tell of its open circuits; the name of the tasks follows.
local CIRCUIT = 'circuit:'

-- The names whose circuits a replica holds open.
local function open_circuits(ctx, replica)
  local names = {}
  for _, field in ipairs(redis.call('HKEYS', ctx.prefix .. 'replica:' .. replica)) do
    if string.sub(field, 1, #CIRCUIT) == CIRCUIT then names[#names + 1] = string.sub(field, #CIRCUIT + 1) end
  end
  return names
end

-- Removes a replica that holds nothing any more, with its consumers; answers whether it is gone. Removing a consumer
-- with pending entries would lose them, so each is counted first.
local function forget_replica(ctx, replica)
  local gone, limits = true, LIMIT.said_by(ctx, replica)
  for _, stream in ipairs(all_streams(ctx)) do
    if #pending_of(stream, replica, 1) > 0 then
      gone = false
    else
      redis.pcall('XGROUP', 'DELCONSUMER', stream, GROUP, replica)
    end
  end
  if gone then
    redis.call('HDEL', ctx.prefix .. 'beats', replica)
    redis.call('DEL', ctx.prefix .. 'can:' .. replica, ctx.prefix .. 'replica:' .. replica,
      ctx.prefix .. 'figures:' .. replica)
    LIMIT.agree(ctx, limits)
  end
  return gone
end

-- The last entry that a group was given.
local function delivered_id(stream, group)
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local fields = {}
    for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
    if fields['name'] == group then return fields['last-delivered-id'] end
  end
  return '0-0'
end
