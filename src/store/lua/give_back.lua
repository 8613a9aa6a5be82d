--[[
give_back: a reader that leaves returns what it was given and did not act upon, as if nobody had been.

The group goes back to before the oldest such event, so the next reader meets all of them again, in their order and in
front of younger ones. What others hold of those behind comes to the next reader too: acting twice does nothing.

KEYS    1 stream  stream  waooaw:triggers or waooaw:commands
ARGV    1 group  2 consumer
Returns { 'ok', given back }; the consumer is gone. O(its entries + the finished ones behind the oldest, bounded).
]]
-- Finished entries behind the oldest are deleted, so that they do not come again; this many are looked at.
local GIVE_BACK_LOOKS = 1000
local GIVE_BACK_BYTES = 4194304

-- The id just before another.
local function id_before(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  -- Numbers above this are not exact here; going further back does no harm.
  if tonumber(seq) > 9007199254740992 then return ms .. '-0' end
  if seq ~= '0' then return ms .. '-' .. string.format('%d', tonumber(seq) - 1) end
  if ms == '0' then return '0-0' end
  return string.format('%d', tonumber(ms) - 1) .. '-18446744073709551615'
end

-- Deletes what was acted upon between two entries, while it is not too much.
local function drop_finished(stream, group, from, upto, unfinished)
  local looked, bytes, after = 0, 0, from
  while looked < GIVE_BACK_LOOKS and bytes < GIVE_BACK_BYTES do
    local entries = redis.call('XRANGE', stream, '(' .. after, upto, 'COUNT', 10)
    if #entries == 0 then return end
    for _, entry in ipairs(entries) do
      after, looked = entry[1], looked + 1
      for _, part in ipairs(entry[2]) do bytes = bytes + #part end
      if not unfinished[after] and #redis.call('XPENDING', stream, group, after, after, 1) == 0 then
        redis.call('XDEL', stream, after)
      end
    end
  end
end

local function give_back(keys, args)
  local stream, group, consumer = keys[1], args[1], args[2]
  local mine = redis.pcall('XPENDING', stream, group, '-', '+', 100000, consumer)
  if mine.err then return { 'ok', 0 } end
  if #mine > 0 then
    local unfinished, ids = {}, {}
    for i, pending in ipairs(mine) do
      ids[i] = pending[1]
      unfinished[pending[1]] = true
    end
    local delivered = delivered_id(stream, group)
    drop_finished(stream, group, ids[1], delivered, unfinished)
    for first = 1, #ids, CHUNK do
      redis.call('XACK', stream, group, unpack(ids, first, math.min(first + CHUNK - 1, #ids)))
    end
    if not is_later(ids[1], delivered) then redis.call('XGROUP', 'SETID', stream, group, id_before(ids[1])) end
  end
  redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
  return { 'ok', #mine }
end

register('give_back', give_back, DRAINS)
