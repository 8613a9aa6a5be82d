--[[
recall: compares what a replica remembers of the log with what is there.

A Redis that restarts without its last moments, or a copy that takes its place too early, knows nothing of events that
replicas have seen: state and log went back together. The first replica to notice says so on the log; `cuts` counts such
announcements, so the others, who remember a lower count, know that theirs was made.

KEYS    1 meta    hash    the partition's schema, limits and counters
        2 none    -       never exists
ARGV    1 replica  2 entry id of the newest event that it saw, '' when none  3 event_id of that  4 foundation  5 cuts
        (what an earlier call answered, '' and 0 before the first)
Returns { 'ok' | 'rolled_back', entry id, event_id, foundation, cuts (to be remembered), now_at ('' unless rolled back:
        the newest event that was left), '1' where this call announced it }
        | { 'stranger' } (only a member may speak on the log) | { 'schema', found }. O(1).
]]
-- Whether an event that was seen is gone though nobody removed it.
local function is_undone(ctx, entry, event_id, trimmed_to)
  local found = redis.call('XRANGE', ctx.events, entry, entry)[1]
  if found and field_of(found[2], 'event_id') == event_id then return false end
  if trimmed_to and not is_later(entry, trimmed_to) then return false end
  local first = redis.call('XRANGE', ctx.events, '-', '+', 'COUNT', 1)[1]
  local info = redis.pcall('XINFO', 'STREAM', ctx.events)
  if info.err then return true end
  local fields = {}
  for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
  -- Removed by hand: deleted, or cut off at the head of the log.
  if not is_later(entry, fields['max-deleted-entry-id'] or '0-0') then return false end
  if first then return not is_later(first[1], entry) end
  return is_later(entry, fields['last-generated-id'])
end

local function recall(keys, args)
  local ctx, refusal = open(keys, args[1])
  if not ctx then return refusal end
  local entry, event_id, foundation, cuts = args[2], args[3], args[4], tonumber(args[5])
  local known = redis.call('HMGET', ctx.meta, 'foundation', 'cuts', 'trimmed_to')
  local found_cuts = tonumber(known[2]) or 0
  local is_other = foundation ~= '' and known[1] ~= foundation
  local word, now_at, announced = 'ok', '', '0'
  if entry ~= '' and (is_other or is_undone(ctx, entry, event_id, known[3])) then
    if redis.call('HEXISTS', ctx.prefix .. 'beats', ctx.replica) == 0 then return { 'stranger' } end
    word = 'rolled_back'
    local left = redis.call('XREVRANGE', ctx.events, entry, '-', 'COUNT', 1)[1]
    now_at = left and left[1] or '0-0'
    -- Whoever follows the log by the last id that it saw must not miss what comes.
    local newest = redis.call('XREVRANGE', ctx.events, '+', '-', 'COUNT', 1)[1]
    if newest and is_later(entry, newest[1]) then redis.call('XSETID', ctx.events, entry) end
    if found_cuts <= (is_other and 0 or cuts) then
      found_cuts = redis.call('HINCRBY', ctx.meta, 'cuts', 1)
      SPEAKER.tell(ctx, ctx.replica, 'orchestration.history.rolled_back',
        '"last_seen":"' .. entry .. '","now_at":"' .. now_at .. '"')
      announced = '1'
    end
  end
  local newest = redis.call('XREVRANGE', ctx.events, '+', '-', 'COUNT', 1)[1]
  return { word, newest and newest[1] or '', newest and field_of(newest[2], 'event_id') or '', known[1] or '', found_cuts,
    now_at, announced }
end

register('recall', recall, DRAINS)
