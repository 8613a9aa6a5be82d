--[[
floor: calls the commands of many tasks in an empty loop, to learn what they cost without any logic around them.

No part of the library: a benchmark sends it as a script, over and over, each time with a slice of its tasks.

KEYS    1 scratch  -  what all keys that are made here begin with
ARGV    1 plan (JSON): `calls` by command, and how many elements the calls carry together: `triggers`, `queued`,
        `events` (entries added), `read_triggers`, `read_queue` (entries read, acknowledged and removed), `checked`,
        `loaded`, `saved` (records)  2 payload of a trigger  3 payload of an event  4 record  5 first record's number
        6 one past the last record's number
Returns how many commands were called. O(elements).
]]
local call, floor, max = redis.call, math.floor, math.max
local scratch, plan = KEYS[1], cjson.decode(ARGV[1])
local trigger, event, record = ARGV[2], ARGV[3], ARGV[4]
local first, beyond = tonumber(ARGV[5]), tonumber(ARGV[6])
local done = 0
-- Lua refuses to unpack more values than its C stack holds.
local CHUNK = 1000
local GROUP = 'floor'
local TASK = '00000000-0000-8000-8000-000000000000'

local inbound, queue, log = scratch .. ':in', scratch .. ':queue', scratch .. ':events'
local meta, names, scores = scratch .. ':meta', scratch .. ':names', scratch .. ':scores'
redis.pcall('XGROUP', 'CREATE', inbound, GROUP, '0', 'MKSTREAM')
redis.pcall('XGROUP', 'CREATE', queue, GROUP, '0', 'MKSTREAM')
call('SADD', names, 'default')
call('ZADD', scores, 1, 'noop')

local function calls_of(command) return plan.calls[command] or 0 end

-- Spreads elements evenly over calls.
local function spread(calls, elements, act)
  local before = 0
  for i = 1, calls do
    local upto = floor(elements * i / calls)
    act(before + 1, upto)
    before = upto
  end
  done = done + calls
end

-- Calls the same command again and again.
local function again(command, ...)
  for _ = 1, calls_of(command) do call(...) end
  done = done + calls_of(command)
end

for _ = 1, plan.triggers do
  call('XADD', inbound, '*', 'event_type', 'orchestration.task.trigger', 'source_agent', 'bench', 'payload', trigger)
end
for _ = 1, plan.queued do call('XADD', queue, '*', 't', TASK) end
for _ = 1, plan.events do
  call('XADD', log, '*', 'event_type', 'orchestration.task.completed', 'source_agent', 'orchestration-runtime/r-00000000',
    'event_id', '00000000-0000-8000-8000-000000000000/3', 'correlation_id', '1700000000000-0', 'causation_id',
    '00000000-0000-8000-8000-000000000000/2', 'timestamp', '2023-11-14T22:13:20.000Z', 'payload', event)
end
done = done + plan.triggers + plan.queued + plan.events

-- Reads, acknowledges and removes; `share` is the part of the calls that this stream gets.
local function consume(stream, elements, share)
  local ids = {}
  spread(floor(calls_of('xreadgroup') * share), elements, function(from, upto)
    local reply = call('XREADGROUP', 'GROUP', GROUP, 'c', 'COUNT', max(1, upto - from + 1), 'STREAMS', stream, '>')
    if reply then
      for _, entry in ipairs(reply[1][2]) do ids[#ids + 1] = entry[1] end
    end
  end)
  if #ids == 0 then return end
  spread(floor(calls_of('xack') * share), #ids, function(from, upto)
    if from <= upto then call('XACK', stream, GROUP, unpack(ids, from, math.min(upto, from + CHUNK))) end
  end)
  spread(floor(calls_of('xtrim') * share), #ids, function(_, upto)
    call('XTRIM', stream, 'MINID', '=', ids[max(1, upto)])
  end)
  spread(floor(calls_of('xdel') * share), #ids, function(from, upto)
    if from <= upto then call('XDEL', stream, unpack(ids, from, math.min(upto, from + CHUNK))) end
  end)
end
local is_both = plan.read_triggers > 0 and plan.read_queue > 0
if plan.read_triggers > 0 then consume(inbound, plan.read_triggers, is_both and 0.5 or 1) end
if plan.read_queue > 0 then consume(queue, plan.read_queue, is_both and 0.5 or 1) end

local tasks = {}
for i = first, beyond - 1 do tasks[#tasks + 1] = scratch .. ':t:' .. i end
local function keys_of(from, upto)
  local keys = {}
  for i = from, math.min(upto, from + CHUNK) do keys[#keys + 1] = tasks[(i - 1) % #tasks + 1] end
  return keys
end
spread(calls_of('exists'), plan.checked, function(from, upto) call('EXISTS', unpack(keys_of(from, max(from, upto)))) end)
spread(calls_of('mset'), plan.saved, function(from, upto)
  local writes = { 'MSET' }
  for i = from, math.min(max(from, upto), from + CHUNK) do
    writes[#writes + 1] = tasks[(i - 1) % #tasks + 1]
    writes[#writes + 1] = record
  end
  call(unpack(writes))
end)
spread(calls_of('mget'), plan.loaded, function(from, upto) call('MGET', unpack(keys_of(from, max(from, upto)))) end)

again('hset', 'HSET', meta, 'p1', 1, 'running', 2, 'completed', 3, 'duration_ms', 4, 'served', 5)
again('hmget', 'HMGET', meta, 'schema', 'max_size', 'max_running', 'overdue_ms', 'p0', 'p1', 'p2', 'p3', 'running',
  'completed', 'failed', 'timeout', 'cancelled', 'duration_ms', 'served', 'parked')
again('hincrby', 'HINCRBY', scratch .. ':rate', '1700000000', 1)
again('time', 'TIME')
again('smembers', 'SMEMBERS', names)
again('sismember', 'SISMEMBER', names, 'default')
again('zscore', 'ZSCORE', scores, 'noop')
again('xpending', 'XPENDING', queue, GROUP, '-', '+', 1)
again('xinfo', 'XINFO', 'GROUPS', queue)
again('xrange', 'XRANGE', queue, '-', '+', 'COUNT', 1)
again('xrevrange', 'XREVRANGE', queue, '+', '-', 'COUNT', 1)
again('xlen', 'XLEN', queue)
return done
