--[[
acknowledge: takes inbound events that were acted upon off their stream.

KEYS    1 stream  stream  waooaw:triggers or waooaw:commands
ARGV    1 group  2... entry ids, ascending
Returns how many were still pending. Entries in front of the oldest pending one are trimmed together, which is far
        cheaper than deleting each; those behind it are deleted singly only when they pile up. Nothing is deleted by an id that
        nobody held: after a Redis that lost its last moments, and whose clock went back with them, it may be that of a new
        entry. O(entries).
]]
-- How many finished entries may stand behind an unfinished one before they are deleted one by one.
local PILE = 10000

local function acknowledge(keys, args)
  local stream, group = keys[1], args[1]
  local acknowledged = 0
  for first = 2, #args, CHUNK do
    acknowledged = acknowledged + redis.call('XACK', stream, group, unpack(args, first, math.min(first + CHUNK - 1, #args)))
  end
  local pending = redis.call('XPENDING', stream, group, '-', '+', 1)[1]
  local delivered = delivered_id(stream, group)
  if pending and not is_later(pending[1], delivered) then
    redis.call('XTRIM', stream, 'MINID', '=', pending[1])
  else
    local ms, seq = string.match(delivered, '^(%d+)-(%d+)$')
    redis.call('XTRIM', stream, 'MINID', '=', string.format('%s-%d', ms, tonumber(seq) + 1))
  end
  local is_piled = pending and redis.call('XLEN', stream) > PILE
  local behind, is_all_held = {}, acknowledged == #args - 1
  for i = is_all_held and #args or 1, 2, -1 do
    -- Somebody gave back what stands in front of it; it would come again.
    if not is_piled and not is_later(args[i], delivered) then break end
    behind[#behind + 1] = args[i]
  end
  for first = 1, #behind, CHUNK do
    redis.call('XDEL', stream, unpack(behind, first, math.min(first + CHUNK - 1, #behind)))
  end
  return acknowledged
end

-- forget: removes a consumer of an inbound stream that has nothing pending; see leave.
local function forget(keys, args)
  local pending = redis.pcall('XPENDING', keys[1], args[1], '-', '+', 1, args[2])
  if pending.err or #pending > 0 then return { 'busy' } end
  redis.pcall('XGROUP', 'DELCONSUMER', keys[1], args[1], args[2])
  return { 'ok' }
end

register('acknowledge', acknowledge, DRAINS)
register('forget', forget, DRAINS)
