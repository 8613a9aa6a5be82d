--[[
record: one task as one string, a header of fixed width that changes and a body that does not.

A string, since MGET and MSET move a whole batch in one command each; as hashes the same batch costs three times the
CPU. The body is `queue \n task_name \n group \n trigger_event_id \n correlation_id \n trace \n spec`: the group is a workflow's
id, or a saga's with a space and the step behind it; behind the name stand the agent that a task is for and how long that may
be silent and may take, in ms, with a space before each; the event id is the inside of a JSON string, the correlation id empty
where it is the event id, the spec JSON that passes through untouched, with how long args, kwargs and metadata in it are in
front (`a.k.m`) where it has any. Behind the body stands the result of a
completed task, or the error of a failed one. What few tasks need (the errors of earlier attempts) is in a hash beside it.
`src/store/record.rs` reads the same layout.
]]
local HEADER = '>BBBBHI4I3I3I4I6I4c10HI6I6I6I4'
local HEADER_BYTES = 64
local STATE, PLACE, RANK, LOSSES, FLAGS, ATTEMPT, RETRIES, MAX_RETRIES, SEQ = 1, 2, 3, 4, 5, 6, 7, 8, 9
local ENTRY_MS, ENTRY_SEQ, OWNER, SLOT, CREATED, STARTED, FINISHED, BODY = 10, 11, 12, 13, 14, 15, 16, 17
local PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, CANCELLED = 80, 82, 67, 70, 84, 88
-- Where a pending task waits: in its queue, parked until a replica with its handler asks, delayed, or for others to end.
local QUEUED, PARKED, DELAYED, BLOCKED = 81, 75, 68, 66
-- Part of a group that is not told of yet: to everybody else there is no such task.
local STAGED = 83
-- What few tasks have to do with: a record's flags. Most tasks have none, and cost nothing for it.
local HAS_DEPENDENCIES, HAS_DEPENDENTS, IN_GROUP, IS_STEP, IS_COMPENSATION, IN_DOUBT, RUNS_ANYWAY, WAITS_ANYWAY =
  1, 2, 4, 8, 16, 32, 64, 128
-- Where the flags stand in a record, and how.
local FLAGS_AT, FLAGS_FORM = 4, '>H'
local NOBODY = '----------'
-- All about tasks that agents carry out, in one table, since Lua knows no more than 200 locals; see agent.lua. Flags: FOR, its
-- body names the agent that it is for; BY, an agent has or had it. OWNER stands where an agent holds a task, and PLACE where one
-- that is for an agent waits and runs.
local AGENT = { FOR = 256, BY = 512, OWNER = 'agent-----', PLACE = 65 }
-- Above this size a change of the header is written in place instead of rewriting the whole string.
local SMALL_BYTES = 2048

local function task_key(ctx, id) return ctx.prefix .. 't:' .. id end

-- The header as an array (see the index names above), or nil when there is no record, or something that is none: whoever
-- writes past the functions must not make one fail half way.
local function read_header(raw)
  if not raw or #raw < HEADER_BYTES then return nil end
  local h = { struct.unpack(HEADER, raw) }
  if h[RANK] > 3 then return nil end
  return h
end

local function has(h, flag) return bit.band(h[FLAGS], flag) ~= 0 end

local function set_flag(h, flag) h[FLAGS] = bit.bor(h[FLAGS], flag) end

-- queue, head, correlation_id, trace, group, step, name, agent, where head is what the payloads of all the task's events share. A
-- body that is none is read as that of a task without a name.
local function read_body(raw)
  local queue, name, agent, group, event, correlation, trace =
    string.match(raw, '^([^\n]*)\n([^\n ]*) ?([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n', HEADER_BYTES + 1)
  if not queue then queue, name, agent, group, event, correlation, trace = 'default', '', '', '', '', '', '' end
  local workflow, step = 'null', nil
  if group ~= '' then
    local space = string.find(group, ' ', 1, true)
    if space then
      step = string.sub(group, space + 1)
      group = string.sub(group, 1, space - 1)
      workflow = 'null,"saga_id":"' .. group .. '","step":"' .. step .. '"'
    else
      workflow = '"' .. group .. '"'
    end
  end
  -- Left out where it is the trigger's id, as it is unless a caller named a chain.
  if correlation == '' then correlation = event end
  return queue, '"task_name":"' .. name .. '","workflow_id":' .. workflow .. ',"trigger_event_id":"' .. event .. '"',
    correlation, trace, group, step, name, agent
end

-- The queue alone, which of all that is the least work.
local function read_queue(raw) return string.match(raw, '^([^\n]*)\n', HEADER_BYTES + 1) or 'default' end

local function pack_header(h)
  return struct.pack(HEADER, unpack(h, 1, BODY))
end

-- Writes the changed header in place, where nothing stands behind the body. For what changes the header alone this is less
-- than `save`: no string of the whole record is made, and the append-only file grows by 64 bytes instead of all of it.
local function save_header(key, h) redis.call('SETRANGE', key, 0, pack_header(h)) end

-- Gathers the changed header for `flush`, with `tail` (a result or an error, as JSON) behind the body where given.
local function save(ctx, key, raw, h, tail)
  local header = pack_header(h)
  if #raw <= SMALL_BYTES then
    local writes = ctx.writes
    local count = #writes
    local body = string.sub(raw, HEADER_BYTES + 1, HEADER_BYTES + h[BODY])
    writes[count + 1] = key
    writes[count + 2] = header .. body .. (tail or '')
  else
    redis.call('SETRANGE', key, 0, header)
    if tail then redis.call('APPEND', key, tail) end
  end
end

-- The keys of a list of ids.
local function task_keys(ctx, ids)
  local keys, prefix = {}, ctx.prefix .. 't:'
  for i = 1, #ids do keys[i] = prefix .. ids[i] end
  return keys
end

-- The record of one task; false where there is none, also where another kind of key is in its place.
local function load_record(ctx, id) return redis.call('MGET', task_key(ctx, id))[1] end

-- The first bytes of a record; none where there is no record.
local function load_front(ctx, id, bytes)
  local front = redis.pcall('GETRANGE', task_key(ctx, id), 0, bytes - 1)
  return type(front) == 'string' and front or ''
end

-- The records under a list of keys, in order; false where there is none.
local function load_records(keys)
  if #keys == 0 then return {} end
  if #keys <= CHUNK then return redis.call('MGET', unpack(keys)) end
  local found = {}
  for first = 1, #keys, CHUNK do
    local values = redis.call('MGET', unpack(keys, first, math.min(first + CHUNK - 1, #keys)))
    for i = 1, #values do found[first + i - 1] = values[i] end
  end
  return found
end
