//! Breaks what the functions do with sagas in one small way after the other: each must be noticed.

use proptest::strategy::{Strategy, ValueTree};
use waooaw_orchestration::store::library::LIBRARY;

use crate::mutants::load;
use crate::sagas::{cases, given_up_behind_the_pivot, run};
use crate::server::Server;
use crate::{runner, runtime};

/// Fixed, so that every run breaks them alike.
const SEED: u64 = 5;
const CASES: usize = 600;

/// What is broken, the text in the source, and what stands there instead.
const MUTANTS: [(&str, &str, &str); 26] = [
    (
        "steps are undone in the order of their ends",
        "local number = redis.call('RPOP', ctx.prefix .. 'e:' .. group.id)",
        "local number = redis.call('LPOP', ctx.prefix .. 'e:' .. group.id)",
    ),
    (
        "steps in doubt are not undone",
        "redis.call('HSET', steps_key(ctx, group.id), 'z' .. number, 'D')\n      redis.call('RPUSH', ctx.prefix .. 'e:' .. group.id, number)",
        "",
    ),
    (
        "every step that failed is undone",
        "local is_in_doubt = bit.band(ending.flags, IN_DOUBT) ~= 0",
        "local is_in_doubt = true",
    ),
    (
        "a timeout leaves no doubt",
        "or outcome == 'timeout' or outcome == 'aborted' then\n      set_flag",
        "or outcome == 'aborted' then\n      set_flag",
    ),
    (
        "a lost attempt leaves no doubt",
        "DOUBTFUL = { timeout = true, lost = true,",
        "DOUBTFUL = { timeout = true,",
    ),
    (
        "a broken connection leaves no doubt",
        "cancelled = true, connection_broken = true,",
        "cancelled = true,",
    ),
    (
        "what is handed back in the middle is in no doubt",
        "if has(h, IS_STEP) and data == '\"shutdown\"' then set_flag(h, IN_DOUBT) end",
        "",
    ),
    (
        "what is handed back goes on while its saga goes back",
        "if not saga or saga.abort == '' then return nil end",
        "if true then return nil end",
    ),
    (
        "what was never called is in doubt",
        "return 'unstarted', ",
        "return 'aborted', ",
    ),
    (
        "a step is tried again while its saga goes back",
        "if saga and saga.abort ~= '' then\n      may_retry = false",
        "if saga and saga.abort ~= '' then\n      may_retry = may_retry",
    ),
    (
        "it turns round while steps run",
        "if group.left > 0 then return end\n      if group.abort ~= ''",
        "if group.abort ~= ''",
    ),
    (
        "behind the pivot it goes back",
        "group.passed = '1' end",
        "group.passed = group.passed end",
    ),
    (
        "the pivot counts when the saga goes back already",
        "if group.abort == '' and redis.call('HEXISTS', key, 'p' .. number) == 1",
        "if redis.call('HEXISTS', key, 'p' .. number) == 1",
    ),
    (
        "behind the pivot retries are counted",
        "-- There is no way back: it is tried until it succeeds.\n      may_retry = true",
        "may_retry = may_retry",
    ),
    (
        "one that could not be undone stops the rest",
        "        ',\"error\":' .. (ending.data or '{\"type\":\"cancelled\",\"message\":\"the compensation was cancelled\"}'), cause)\n    end\n    return undo_next(ctx, group, cause)",
        "        ',\"error\":' .. (ending.data or '{}'), cause)\n      finish(ctx, group, cause)\n      return false\n    end\n    return undo_next(ctx, group, cause)",
    ),
    (
        "what was not undone is forgotten",
        "note_verdict(ctx, group, number, 'U')\n      redis.call('RPUSH', ctx.prefix .. 'u:' .. group.id, number)",
        "note_verdict(ctx, group, number, 'U')",
    ),
    (
        "resuming undoes in the other order",
        "local number = redis.call('RPOP', from)",
        "local number = redis.call('LPOP', from)",
    ),
    (
        "a step that nothing undoes ends the way back",
        "      undone(ctx, group, number, known[1], nil, cause)\n    end\n    return true",
        "      undone(ctx, group, number, known[1], nil, cause)\n      finish(ctx, group, cause)\n      return false\n    end\n    return true",
    ),
    (
        "a late success is not undone",
        "redis.call('RPUSH', ctx.prefix .. 'e:' .. saga, number)\n      end",
        "end",
    ),
    (
        "a late success is undone although its turn is still to come",
        "if group.passed == '' and not is_to_come then",
        "if group.passed == '' then",
    ),
    (
        "a late success counts each time that it is told",
        "if redis.call('HSETNX', key, 'l' .. number, '1') == 0 then return end",
        "redis.call('HSETNX', key, 'l' .. number, '1')",
    ),
    (
        "a late success behind the end is undone last",
        "redis.call('LPUSH', ctx.prefix .. 'u:' .. saga, number)",
        "redis.call('RPUSH', ctx.prefix .. 'u:' .. saga, number)",
    ),
    (
        "a late success keeps its dead letter when it is undone",
        "remove_letter(ctx, letter)\n        names[#names + 1] = quoted(letter)",
        "names[#names + 1] = quoted(letter)",
    ),
    (
        "a cancel that comes twice is refused behind the end",
        "if cause and cause ~= '' and string.sub(group.stop, 1, #cause + 1) == cause .. '\\n' then return 'ok' end",
        "",
    ),
    (
        "what completed after a step was given up is forgotten when it goes on",
        "satisfy_all(ctx, links_to(id, children), group and group.abort ~= '')",
        "if not (group and group.abort ~= '') then satisfy_all(ctx, links_to(id, children)) end",
    ),
    (
        "lists of steps are in the order of the definition",
        "return first < second\n    end)",
        "return one < other\n    end)",
    ),
];

#[test]
fn a_broken_saga_is_noticed() {
    let runtime = runtime();
    let server = runtime.block_on(Server::start());

    let mut unnoticed = Vec::new();
    for (number, (what, text, instead)) in MUTANTS.iter().enumerate() {
        let count = LIBRARY.source.matches(text).count();
        assert_eq!(
            count, 1,
            "the source has changed where {what:?} breaks it; find the new text for it"
        );
        let source = LIBRARY.source.replace(text, instead);
        let is_noticed = runtime.block_on(async {
            load(&server, &source).await;
            let fixed = given_up_behind_the_pivot();
            if run(&server, &format!("saga{number}fixed"), &fixed).await.is_err() {
                return true;
            }
            let mut runner = runner(0, SEED);
            for case in 0..CASES {
                let steps = cases().new_tree(&mut runner).unwrap().current();
                if run(&server, &format!("saga{number}case{case}"), &steps).await.is_err() {
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
