//! Breaks what the functions do for agents in one small way after the other; see `mutants`.

/// What is broken, the text in the source, and what stands there instead.
pub(crate) const MUTANTS: [(&str, &str, &str); 43] = [
    // --- agent.lua ---
    (
        "the agent that a trigger names does not count where a handler names one",
        "if own then return wanted and wanted .. string.match(own, ' .*$') or own end",
        "if own then return own end",
    ),
    (
        "a trigger's agent comes before a handler",
        "if is_registered(ctx, name) then return nil end",
        "",
    ),
    (
        "an agent's attempt is not counted",
        "h[ATTEMPT] = h[ATTEMPT] + 1\n  h[OWNER] = AGENT.OWNER",
        "h[ATTEMPT] = math.max(1, h[ATTEMPT])\n  h[OWNER] = AGENT.OWNER",
    ),
    (
        "what an agent has does not count as running",
        "ctx.count.running = ctx.count.running + 1\n  ctx.count.served = ctx.count.served + 1\n  emit_task",
        "ctx.count.served = ctx.count.served + 1\n  emit_task",
    ),
    (
        "the progress of the attempt before stays",
        "'read', 'from', 'progress')",
        "'read', 'from')",
    ),
    (
        "nobody looks when the time of an attempt is up",
        "if timeout_ms > 0 and timeout_ms < due then due = timeout_ms end",
        "",
    ),
    (
        "a task's own timeout does not count",
        "timeout_ms = own_ms or tonumber(timeout_ms)",
        "timeout_ms = tonumber(timeout_ms)",
    ),
    (
        "what is handed over is left with nobody",
        "redis.call('XCLAIM', stream, GROUP, 'agent:' .. agent, 0, entry, 'JUSTID')\n  AGENT.begin",
        "AGENT.begin",
    ),
    (
        "an assignment is not known again",
        "redis.call('HSET', AGENT.key(ctx, id), 'inbox', inbox)\n  return 1",
        "return 1",
    ),
    (
        "what was claimed over HTTP may be silent for as long as what is not",
        "h, request.agent, request.silence_ms, timeout_ms or 0)",
        "h, request.agent, AGENT.SILENCE_MS, timeout_ms or 0)",
    ),
    (
        "nothing is handed over but by who takes something",
        "if AGENT.waits(ctx) or (all and AGENT.has_parked(ctx)) then",
        "if false then",
    ),
    (
        "what is parked for agents is not looked at by the timers",
        "(all and AGENT.has_parked(ctx))",
        "false",
    ),
    (
        "room under a limit is not used by agents",
        "(ctx.count.parked > 0 and LIMIT.has_room(ctx))",
        "false",
    ),
    (
        "an assignment outlives its attempt",
        "redis.call('XDEL', AGENT.inbox(ctx, agent), entry)\n  if reason then",
        "if reason then",
    ),
    (
        "an assignment stays pending when its attempt ends",
        "redis.pcall('XACK', AGENT.inbox(ctx, agent), agent, entry)\n  redis.call('XDEL'",
        "redis.call('XDEL'",
    ),
    (
        "an agent is not told to stop",
        "  if reason then\n    AGENT.tell",
        "  if false then\n    AGENT.tell",
    ),
    (
        "the timer of an attempt outlives it",
        "redis.call('ZREM', ctx.prefix .. 'timers', id)\n  if not agent or not entry then return end",
        "if not agent or not entry then return end",
    ),
    (
        "a heartbeat is no sign of life",
        "AGENT.time(ctx, id, 'beat', tonumber(known[5]) or 0)",
        "0",
    ),
    (
        "silence counts while nobody looks",
        "since = math.max(since, AGENT.awake(ctx))",
        "",
    ),
    (
        "silence counts from the beginning of time where there is no inbox",
        "return math.max(since, AGENT.began(ctx, id, h, known[7])) end",
        "return since end",
    ),
    (
        "an assignment that is pending counts as unread",
        "return math.max(since, ctx.now - idle_ms)",
        "return ctx.now",
    ),
    (
        "an assignment that was acknowledged counts as unread",
        "return math.max(since, AGENT.time(ctx, id, 'read', read))",
        "return ctx.now",
    ),
    (
        "an assignment that nobody has read is lost",
        "(AGENT.put(ctx, agent, id, raw, h, tonumber(known[4]))))\n  end\n  return ctx.now",
        "(AGENT.put(ctx, agent, id, raw, h, tonumber(known[4]))))\n  end\n  return AGENT.began(ctx, id, h, known[7])",
    ),
    (
        "no attempt takes too long",
        "if due <= ctx.now then\n      ctx.expired",
        "if false then\n      ctx.expired",
    ),
    ("silence is no loss", "if silent_from <= ctx.now then", "if false then"),
    (
        "notices that were read stay for ever",
        "if is_read or ms <= ctx.now - kept_ms then",
        "if ms <= ctx.now - kept_ms then",
    ),
    (
        "the agent of a forgotten name stays",
        "if not redis.call('ZSCORE', ctx.prefix .. 'handlers', name) then redis.call('HDEL'",
        "if false then redis.call('HDEL'",
    ),
    // --- answer.lua ---
    (
        "an answer counts from anybody",
        "if not AGENT.is_self(agent, who) then return 'other' end",
        "",
    ),
    (
        "an answer counts for any attempt",
        "if h[ATTEMPT] ~= attempt then return 'stale' end",
        "",
    ),
    (
        "what has ended is stale to its agent",
        "if AGENT.is_over(h) then return 'terminal' end",
        "",
    ),
    (
        "an answer counts for what somebody else runs",
        "if h[STATE] ~= RUNNING or h[OWNER] ~= AGENT.OWNER then return 'stale' end",
        "if h[STATE] ~= RUNNING then return 'stale' end",
    ),
    (
        "the same event twice is refused",
        "if event_id ~= '' and known[2] == event_id then return 'duplicate' end",
        "",
    ),
    (
        "a heartbeat behind its answer is refused",
        "if outcome == 'beat' and was_before(attempt, entry, known[3]) then return 'duplicate' end",
        "",
    ),
    (
        "a time in which nobody looked is part of an attempt's",
        "ctx.steady_ms = ctx.now - gap_since(ctx, tonumber(known[1])) - (tonumber(known[2]) or 0)",
        "ctx.steady_ms = ctx.now",
    ),
    (
        "somebody who looks after timers is believed",
        "if timeout_ms == 0 or AGENT.left(ctx, h, timeout_ms, known[5]) > 0 then return 'early' end",
        "",
    ),
    (
        "the last word is any word",
        "if entry ~= '' and not was_before(attempt, entry, known[3]) then redis.call",
        "if entry ~= '' then redis.call",
    ),
    (
        "losses before an answer go on counting",
        "h[LOSSES] = 0\n  local about",
        "local about",
    ),
    (
        "the entry of what was answered stays",
        "AGENT.part(ctx, id, h)\n  finish_entry(ctx, stream_of(ctx, h, body[1], body[2]), h[ENTRY_MS], h[ENTRY_SEQ])",
        "AGENT.part(ctx, id, h)",
    ),
    // --- lend.lua ---
    (
        "names that are claimed over HTTP stay unknown",
        "redis.call('ZADD', ctx.prefix .. 'handlers', ctx.now, args[i])",
        "",
    ),
    (
        "who claims over HTTP is given more than asked for",
        "for slot = 1, wanted - #assigned do",
        "for slot = 1, wanted do",
    ),
    (
        "word of what has ended stays with who claims over HTTP",
        "redis.call('XACK', inbox, agent, entry[1])\n        redis.call('XDEL', inbox, entry[1])\n      end\n    end\n  end\n  local slots",
        "end\n    end\n  end\n  local slots",
    ),
    (
        "who claims over HTTP is given of any queue",
        "if request.queue then request.queues = only_queue(request) end",
        "",
    ),
    (
        "who claims over HTTP is given what is parked of any queue",
        "or not is_asked_for then",
        "then",
    ),
];
