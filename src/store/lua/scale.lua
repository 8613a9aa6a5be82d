--[[
scale: asks replicas for more or fewer workers; each carries it out when the bell rings.

All of them can do it, or none is asked. Bounds are those that a replica last reported, or was last asked for. It is told
whole numbers and not a difference, so hearing it twice does no harm.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 operator  2 what: add, remove or max  3 how many  4 actor (JSON)  5 reason (JSON)  6... replicas; all without
Returns { 'ok', rows } with rows { replica, number of the wish, workers before, workers, max_workers }
        | { 'full', replica, workers, max_workers } | { 'missing', replica } | { 'empty' } (no replica with workers is there
        that does not drain) | { 'schema', found }; writes nothing unless ok. O(replicas).
]]
-- What a replica is to have after what is asked of it: workers and the most of them; nil when that is more than fits.
local function scaled(what, count, workers, min, max, autoscale)
  if what == 'max' then
    -- One that moves by itself goes on from where it is.
    return autoscale and math.min(workers, count) or count, count
  end
  if what == 'remove' then return math.max(workers - count, math.min(min, workers)), max end
  if workers + count > max then return nil end
  return workers + count, max
end

local function scale(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local what, count = args[2], tonumber(args[3])
  local names, is_named = {}, #args > 5
  for i = 6, #args do names[#names + 1] = args[i] end
  if not is_named then
    names = redis.call('HKEYS', ctx.prefix .. 'beats')
    table.sort(names)
  end
  local rows = {}
  for _, replica in ipairs(names) do
    local known = redis.call('HMGET', ctx.prefix .. 'replica:' .. replica, 'workers', 'min', 'max', 'autoscale', 'state',
      'applied', 'wish', 'asked_by', 'asked_before')
    local workers, min = tonumber(known[1]) or 0, tonumber(known[2]) or 1
    local max, applied = tonumber(known[3]) or workers, tonumber(known[6]) or 0
    local number, wished, wished_max = string.match(known[7] or '', '^(%d+) (%d+) (%d+)$')
    number, wished, wished_max = tonumber(number) or 0, tonumber(wished), tonumber(wished_max)
    if workers == 0 or redis.call('HEXISTS', ctx.prefix .. 'beats', replica) == 0 then
      if is_named then return { 'missing', replica } end
    elseif known[8] == ctx.replica then
      -- The same request again: its answer got lost.
      rows[#rows + 1] = { replica, number, tonumber(known[9]), wished, wished_max }
    elseif known[5] ~= 'draining' then
      -- What is asked for while a wish is not carried out yet is meant on top of it.
      if number > applied then workers, max = wished, wished_max end
      local target, target_max = scaled(what, count, workers, min, max, known[4] == '1')
      if not target then return { 'full', replica, workers, max } end
      rows[#rows + 1] = { replica, number + 1, workers, target, target_max, is_new = true }
    end
  end
  if #rows == 0 then return { 'empty' } end
  for _, row in ipairs(rows) do
    if row.is_new then
      redis.call('HSET', ctx.prefix .. 'replica:' .. row[1], 'wish', string.format('%d %d %d', row[2], row[4], row[5]),
        'asked_by', ctx.replica, 'asked_before', row[3])
      emit_operator(ctx, 'scale', '"' .. row[1] .. '"', args[4],
        string.format('%s,"workers":%d,"max_workers":%d', args[5], row[4], row[5]))
      ring(ctx, 'scale', row[1])
    end
  end
  return { 'ok', rows }
end

register('scale', scale, DRAINS)
