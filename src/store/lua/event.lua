--[[
event: appends one lifecycle event to the partition's log.

Payloads are put together from parts that are JSON already. The event is written by the same call as the change it
tells of, so log and state can not disagree.
]]

-- `cause` is the event_id of what directly caused this one; nil stands for the subject's event before.
local function emit(ctx, kind, subject, seq, correlation, cause, payload, trace)
  local event_id = subject .. '/' .. digits(seq)
  if not cause then cause = subject .. '/' .. digits(seq - 1) end
  if not trace or trace == '' then
    redis.call('XADD', ctx.events, '*', 'event_type', kind, 'source_agent', ctx.source, 'event_id', event_id,
      'correlation_id', correlation, 'causation_id', cause, 'timestamp', ctx.iso, 'payload', payload)
    return
  end
  local parent, state = string.match(trace, '^([^\31]*)\31?(.*)$')
  local entry = { 'XADD', ctx.events, '*', 'event_type', kind, 'source_agent', ctx.source, 'event_id', event_id,
    'correlation_id', correlation, 'causation_id', cause, 'timestamp', ctx.iso, 'payload', payload, 'traceparent', parent }
  if state ~= '' then
    entry[#entry + 1] = 'tracestate'
    entry[#entry + 1] = state
  end
  redis.call(unpack(entry))
end

-- An event of a task: what all of them carry, then `rest`, which is JSON members without braces.
local function emit_task(ctx, kind, id, h, head, correlation, trace, rest, cause)
  h[SEQ] = h[SEQ] + 1
  emit(ctx, kind, id, h[SEQ], correlation, cause,
    '{"task_id":"' .. id .. '",' .. head .. ',"attempt":' .. digits(h[ATTEMPT]) .. ',' .. rest .. '}', trace)
end

-- What is said by a replica or an operator, who act on every partition. Each log numbers on its own, so the subject carries the
-- number of the partition, but for the first: no two events have one id.
local SPEAKER = {}

function SPEAKER.subject(ctx, id)
  local partition = string.match(ctx.meta, '{(%d+)}:meta$')
  return partition == '0' and id or id .. '.' .. partition
end

-- An event of a replica about itself or its pool; a replica's own events cause themselves.
function SPEAKER.tell(ctx, replica, kind, rest)
  local subject, seq = SPEAKER.subject(ctx, replica), redis.call('HINCRBY', ctx.prefix .. 'replica:' .. replica, 'seq', 1)
  local event_id = string.format('%s/%d', subject, seq)
  emit(ctx, kind, subject, seq, event_id, event_id, '{"replica":"' .. replica .. '",' .. rest .. '}')
end

-- That a replica came, went or changed stands once, on the log of the first partition.
function SPEAKER.tell_status(ctx, replica, state, workers)
  if SPEAKER.subject(ctx, replica) ~= replica then return end
  SPEAKER.tell(ctx, replica, 'orchestration.worker_pool.status', '"state":"' .. state .. '","workers":' .. workers)
end

-- A field of an entry; empty where it has none of this name.
local function field_of(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
  return ''
end
