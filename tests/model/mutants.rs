//! Breaks the functions in one small way after the other: a comparison that notices nothing would prove nothing.

use proptest::strategy::{Strategy, ValueTree};
use waooaw_orchestration::store::library::LIBRARY;

use crate::agent_mutants;
use crate::server::Server;
use crate::steps::{agent_steps, steps};
use crate::world::World;
use crate::{runner, runtime};

/// Fixed, so that every run breaks them alike.
const SEED: u64 = 8;
const CASES: usize = 1500;

/// What is broken, the text in the source, and what stands there instead.
const MUTANTS: [(&str, &str, &str); 52] = [
    (
        "settle takes anybody's word",
        " or h[OWNER] ~= ctx.replica then",
        " then",
    ),
    (
        "settle takes any attempt",
        "h[ATTEMPT] ~= verdict.attempt or h[OWNER]",
        "h[OWNER]",
    ),
    (
        "settle leaves the entry",
        "finish_entry(ctx, stream_of(ctx, h, body[1], head), h[ENTRY_MS], h[ENTRY_SEQ])\n      if",
        "if",
    ),
    (
        "settle does not look twice within a batch",
        "seen[id] then\n      words[i] = 'duplicate'",
        "false then",
    ),
    (
        "a completed task goes on counting as running",
        "leave_running(ctx, id, body[2])\n  ctx.count.duration_ms",
        "ctx.count.duration_ms",
    ),
    ("a retry is not counted", "h[RETRIES] = h[RETRIES] + 1", ""),
    (
        "one retry too many",
        "h[RETRIES] < h[MAX_RETRIES]",
        "h[RETRIES] <= h[MAX_RETRIES]",
    ),
    (
        "a claim does not count the attempt",
        "h[ATTEMPT] = h[ATTEMPT] + 1\n        h[OWNER] = ctx.replica",
        "h[ATTEMPT] = math.max(1, h[ATTEMPT])\n        h[OWNER] = ctx.replica",
    ),
    (
        "a claim starts whatever an entry names",
        "not is_its_entry or h[STATE] ~= PENDING",
        "not h",
    ),
    (
        "a claim takes the lowest priority first",
        "for rank = 0, 3 do\n      -- Most",
        "for rank = 3, 0, -1 do\n      -- Most",
    ),
    (
        "a claim does not know max_running",
        "if ctx.max_running > 0 then wanted",
        "if false then wanted",
    ),
    (
        "a claim does not know the limit of a name",
        " or LIMIT.room(ctx, name) == 0) then",
        ") then",
    ),
    (
        "what is parked comes whether there is room or not",
        "return room and math.min(need, room) or need",
        "return need",
    ),
    (
        "what ended counts for the limit of its name",
        "LIMIT.leave(ctx, task_name_of(head), id)",
        "",
    ),
    (
        "the last number that was said is the limit",
        "or most < least[name]) then",
        "or true) then",
    ),
    ("the limit of one that left stays", "LIMIT.agree(ctx, limits)", ""),
    (
        "every ninth task is the overdue one",
        "RESCUE_EVERY = 8",
        "RESCUE_EVERY = 9",
    ),
    (
        "cancel stops what has ended",
        "(h[STATE] ~= PENDING and h[STATE] ~= RUNNING)",
        "false",
    ),
    ("create makes a task twice", "if existing[id] then", "if false then"),
    (
        "create takes one more than max_size",
        "total >= ctx.max_size",
        "total > ctx.max_size",
    ),
    ("losses are not counted", "h[LOSSES] = h[LOSSES] + 1", ""),
    (
        "takeover does not look at the beat",
        "if (seen or '') ~= args[3]",
        "if false",
    ),
    (
        "what was lost counts as settled",
        "h[STATE] == CANCELLED or h[LOSSES] > 0",
        "h[STATE] == CANCELLED",
    ),
    (
        "a goodbye is said twice",
        "if args[2] == '1' and redis.call('HEXISTS', ctx.prefix .. 'beats', args[1]) == 1 then",
        "if args[2] == '1' then",
    ),
    (
        "a delayed task is queued before its time",
        "'-inf', ctx.now,",
        "'-inf', '+inf',",
    ),
    (
        "a beat does not compare attempts",
        "h[OWNER] ~= replica or h[ATTEMPT] ~= held[id]",
        "h[OWNER] ~= replica",
    ),
    (
        "entries that run are trimmed",
        "if ms < oldest_ms or (ms == oldest_ms and seq < oldest_seq) then",
        "if true then",
    ),
    ("an open circuit stops no claim", "redis.call('SREM', can, name)", ""),
    (
        "a name that was never registered is paused",
        "not was_open and redis.call('SISMEMBER', can, name) == 0",
        "false",
    ),
    (
        "a trial needs no open circuit",
        "local slots = is_open and",
        "local slots = true and",
    ),
    (
        "a trial takes from the queues too",
        "request.only and {} or open_queues(ctx)",
        "open_queues(ctx)",
    ),
    (
        "a paused queue is handed out",
        "if not paused[name] then",
        "if true then",
    ),
    (
        "a parked task of a paused queue is handed out",
        "ctx.count.paused > 0 and paused_queues(ctx)[queue]",
        "false",
    ),
    (
        "a pause is told twice",
        "if is_paused == (action == 'pause') then",
        "if false then",
    ),
    (
        "what leaves its park goes on counting there",
        "if stream.parked or stream.agents then aside(ctx, queue, h[RANK], -1) end",
        "",
    ),
    (
        "what is cancelled while it waits aside goes on counting",
        "if h[PLACE] ~= QUEUED then aside(ctx, queue, h[RANK], -1) end",
        "",
    ),
    (
        "who joins overrides what an operator set",
        "args[4] ~= '' and not is_limit_set(set, 'running')",
        "args[4] ~= ''",
    ),
    (
        "a retry that waits is queued at once",
        "if delay_ms > 0 then",
        "if false then",
    ),
    (
        "a task is forgotten before its last event",
        "if not is_terminal(h[STATE]) or h[SEQ] > seq then",
        "if not is_terminal(h[STATE]) then",
    ),
    (
        "what was noted of attempts outlives the task",
        "redis.call('UNLINK', task_key(ctx, id), ctx.prefix .. 'x:' .. id, dependencies_key",
        "redis.call('UNLINK', task_key(ctx, id), dependencies_key",
    ),
    (
        "a workflow goes on listing a forgotten task",
        "redis.call('LREM', list, 1, id)",
        "",
    ),
    (
        "trimming leaves no room for its notice",
        "length - max_events + 1 or 0",
        "length - max_events or 0",
    ),
    (
        "trimming its own notice makes another",
        "if kind ~= 'orchestration.operator.action' or not",
        "if true or not",
    ),
    (
        "timers stay when the clock goes back",
        "tonumber(found[i + 1]) - by)",
        "tonumber(found[i + 1]))",
    ),
    (
        "another life does not begin with all retries",
        "h[RETRIES] = 0\n    h[LOSSES] = 0\n    h[OWNER]",
        "h[LOSSES] = 0\n    h[OWNER]",
    ),
    (
        "another life remembers the losses of the one before",
        "h[RETRIES] = 0\n    h[LOSSES] = 0\n    h[OWNER]",
        "h[RETRIES] = 0\n    h[OWNER]",
    ),
    (
        "a dead letter stays when its task comes back",
        "redis.call('ZREM', ctx.prefix .. 'dead', letter)\n    redis.call('UNLINK', ctx.prefix .. 'dead:' .. letter)",
        "",
    ),
    (
        "a task that came back does not count as waiting",
        "local field = WAITING[h[RANK]]\n    ctx.count[field] = ctx.count[field] + 1\n    emit_task",
        "emit_task",
    ),
    (
        "a second request for the same life is not known",
        "if begun then return { 'duplicate', begun } end",
        "",
    ),
    (
        "lives are not counted",
        "'life', digits(life), 'r' .. attempt",
        "'r' .. attempt",
    ),
    (
        "another life keeps the number of retries that was to change",
        "if max_retries ~= '' then h[MAX_RETRIES]",
        "if false then h[MAX_RETRIES]",
    ),
    (
        "the copy of a dead task is as it was before its end",
        "'header', pack_header(h), 'body'",
        "'header', string.sub(raw, 1, HEADER_BYTES), 'body'",
    ),
];

#[test]
fn a_broken_function_is_noticed() {
    let runtime = runtime();
    let server = runtime.block_on(Server::start());

    let mut unnoticed = Vec::new();
    for (number, (what, text, instead)) in MUTANTS.iter().chain(&agent_mutants::MUTANTS).enumerate() {
        let count = LIBRARY.source.matches(text).count();
        assert_eq!(
            count, 1,
            "the source has changed where {what:?} breaks it; find the new text for it"
        );
        let source = LIBRARY.source.replace(text, instead);
        let is_noticed = runtime.block_on(async {
            load(&server, &source).await;
            let mut runner = runner(0, SEED);
            for case in 0..CASES {
                let steps = if number < MUTANTS.len() {
                    steps().new_tree(&mut runner).unwrap().current()
                } else {
                    agent_steps().new_tree(&mut runner).unwrap().current()
                };
                let prefix = format!("mutant{number}case{case}");
                if World::run(&server, &prefix, &steps).await.is_err() {
                    return true;
                }
            }
            false
        });
        if !is_noticed {
            unnoticed.push(*what);
        }
    }

    assert!(unnoticed.is_empty(), "nobody noticed: {unnoticed:?}");
}

/// Puts a source in the place of the library; the store loads its own only where none has its name.
pub(crate) async fn load(server: &Server, source: &str) {
    let mut connection = server.connect().await.unwrap();
    let mut command = redis::cmd("FUNCTION");
    command.arg("LOAD").arg("REPLACE").arg(source);
    let name: String = command.query_async(&mut connection).await.unwrap();
    assert_eq!(name, LIBRARY.name);
}
