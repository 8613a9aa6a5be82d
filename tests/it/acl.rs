//! The users of `docs/security.md`, their lines taken from there: the main paths work under them, and what they are not to
//! do they can not.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::{Client, Cmd, Value};
use serde_json::json;
use waooaw_orchestration::store::library::LIBRARY;
use waooaw_orchestration::{Endpoint, EventBus};

use crate::support::cli::Cli;
use crate::support::history::check_all_ended;
use crate::support::redis::{TestRedis, task_of, trigger_fields};
use crate::support::replica::Settings;
use crate::support::{holds, wait_for};

const SECURITY: &str = include_str!("../../docs/security.md");

/// The lines that make users, by name.
fn users() -> Vec<(String, Vec<String>)> {
    SECURITY
        .lines()
        .filter(|line| line.starts_with("ACL SETUSER waooaw-"))
        .map(|line| {
            let words: Vec<String> = words(line);
            (words[2].clone(), words)
        })
        .collect()
}

/// The words of a line; what stands in parentheses is one, as Redis takes it.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_open = false;
    for word in line.split(' ') {
        match words.last_mut() {
            Some(last) if is_open => *last = format!("{last} {word}"),
            Some(_) | None => words.push(word.to_owned()),
        }
        is_open = (is_open || word.starts_with('(')) && !word.ends_with(')');
    }
    words
}

async fn make_users(redis: &TestRedis) {
    for (name, line) in users() {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let answer: String = redis.ask(&line).await;
        assert_eq!(answer, "OK", "{name}");
    }
}

/// The address for a user, with the password that the documentation gives it.
fn url_of(redis: &TestRedis, user: &str) -> String {
    let (_, line) = users().into_iter().find(|(name, _)| name == user).unwrap();
    let password = line.iter().find_map(|word| word.strip_prefix('>')).unwrap();
    redis.url().replace("redis://", &format!("redis://{user}:{password}@"))
}

/// Sends one command as a user.
async fn send_as(redis: &TestRedis, user: &str, words: &[&str]) -> redis::RedisResult<Value> {
    let client = Client::open(url_of(redis, user)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = Cmd::new();
    command.arg(words);
    command.query_async(&mut connection).await
}

async fn assert_refused(redis: &TestRedis, user: &str, commands: &[&[&str]]) {
    for words in commands {
        let answer = send_as(redis, user, words).await;
        let code = answer.as_ref().err().and_then(redis::RedisError::code);
        assert_eq!(code, Some("NOPERM"), "{user}: {words:?}: {answer:?}");
    }
}

/// A replica that may not load functions, which the deployment has loaded.
async fn replicas(redis: &TestRedis) -> Settings {
    make_users(redis).await;
    Cli::new(&["functions", "load"])
        .set("REDIS_URL", &url_of(redis, "waooaw-deploy"))
        .run()
        .await
        .expect(0);
    Settings::new(&url_of(redis, "waooaw-replica")).set("WAOOAW_REDIS__LOAD_FUNCTIONS", "false")
}

#[tokio::test]
async fn the_main_paths_work_with_no_more_rights_than_the_documentation_gives() {
    let redis = TestRedis::start().await;
    let settings = replicas(&redis).await.workers(4);
    let mut first = settings.start().await;
    let second = settings.start().await;
    let mut log = redis.log().await;
    let agent = "waooaw-agent-sales";

    // Complete, retry, give up, time out, reject, delay: asked for by an agent.
    let asked = [
        ("done", json!({ "task_name": "echo", "args": [1], "priority": "LOW" })),
        (
            "flaky",
            json!({ "task_name": "flaky", "args": [1], "retry": { "initial_delay_seconds": 0.05 } }),
        ),
        ("fails", json!({ "task_name": "fail", "kwargs": { "permanent": true } })),
        (
            "late",
            json!({ "task_name": "sleep", "args": [60_000], "timeout_seconds": 0.1, "max_retries": 0 }),
        ),
        ("delayed", json!({ "task_name": "noop", "delay_seconds": 0.2 })),
        ("unknown", json!({ "task_name": "nobody_has_this" })),
        ("cancelled", json!({ "task_name": "sleep", "args": [60_000] })),
    ];
    for (event_id, payload) in &asked {
        let payload = payload.to_string();
        let mut words = vec!["XADD", "waooaw:triggers", "*"];
        for (name, value) in trigger_fields(event_id, &payload) {
            words.push(std::str::from_utf8(name).unwrap());
            words.push(std::str::from_utf8(value).unwrap());
        }
        send_as(&redis, agent, &words).await.unwrap();
    }
    log.until_task(task_of("cancelled"), "task.started").await;
    let operator = url_of(&redis, "waooaw-operator");
    Cli::new(&["task", "cancel", &task_of("cancelled").to_string()])
        .set("REDIS_URL", &operator)
        .run()
        .await
        .expect(0);
    for (event_id, end) in [
        ("done", "task.completed"),
        ("flaky", "task.completed"),
        ("fails", "task.dead_lettered"),
        ("late", "task.dead_lettered"),
        ("delayed", "task.completed"),
        ("cancelled", "task.cancelled"),
    ] {
        log.until_task(task_of(event_id), end).await;
    }
    log.until_count("trigger.rejected", 1).await;

    // A takeover, and a drain that hands back.
    let sleep = json!({ "task_name": "sleep", "args": [1500] });
    redis
        .trigger_all((0..8).map(|number| (format!("e-{number}"), sleep.clone())))
        .await;
    log.until_count("task.started", 15).await;
    first.kill();
    log.until_count("task.completed", 11).await;
    wait_for("the dead replica is forgotten", async || {
        let known: Vec<String> = redis.ask(&["HKEYS", "waooaw:{0}:beats"]).await;
        holds(known.len() == 1, || format!("{known:?}"))
    })
    .await;
    let mut second = second;
    assert_eq!(second.stop().await.code(), Some(0));
    assert!(!second.log().contains("NOPERM"), "{}", second.log());
    for command in [
        &["stats"][..],
        &["task", "list"],
        &["task", "get", &task_of("done").to_string()],
    ] {
        Cli::new(command).set("REDIS_URL", &operator).run().await.expect(0);
    }
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn an_agent_publishes_and_reads_the_log_and_can_do_nothing_else() {
    let redis = TestRedis::start().await;
    let _replica = replicas(&redis).await.start().await;
    let agent = "waooaw-agent-sales";
    let bus = EventBus::new(Endpoint::new(&url_of(&redis, agent))).unwrap();

    let mut events = bus
        .subscribe("sales", "orchestration.task.*".parse().unwrap())
        .await
        .unwrap();
    redis.trigger("one", &json!({ "task_name": "noop" })).await;
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "orchestration.task.completed") {
        let event = events.next(Duration::from_secs(20)).await.unwrap().unwrap();
        kinds.push(event.event_type.clone());
    }
    events.confirm().await.unwrap();

    let task = format!("waooaw:{{0}}:t:{}", task_of("one"));
    let call = format!("{}_limits", LIBRARY.name);
    let commands: [&[&str]; 22] = [
        &["GET", &task],
        &["SET", &task, "x"],
        &["DEL", &task],
        &["HGETALL", "waooaw:{0}:meta"],
        &["XRANGE", "waooaw:triggers", "-", "+"],
        &["XADD", "waooaw:{0}:events", "*", "a", "b"],
        &["XDEL", "waooaw:{0}:events", "1-1"],
        &["XTRIM", "waooaw:{0}:events", "MAXLEN", "0"],
        &["XGROUP", "DESTROY", "waooaw:{0}:events", "sales"],
        &["XADD", "waooaw:{0}:queue:default:high", "*", "a", "b"],
        &[
            "XREADGROUP",
            "GROUP",
            "workers",
            "me",
            "STREAMS",
            "waooaw:{0}:queue:default:normal",
            ">",
        ],
        &["XREAD", "STREAMS", "waooaw:{0}:agent:other", "0"],
        &["XADD", "elsewhere", "*", "a", "b"],
        &["FCALL", &call, "2", "waooaw:{0}:meta", "waooaw:{0}:none", "-"],
        &["EVAL", "return 1", "0"],
        &["FLUSHALL"],
        &["FLUSHDB"],
        &["CONFIG", "GET", "*"],
        &["FUNCTION", "LIST"],
        &["KEYS", "*"],
        &["SCAN", "0"],
        &["ACL", "LIST"],
    ];
    assert_refused(&redis, agent, &commands).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn no_user_can_do_what_is_not_its_own() {
    let redis = TestRedis::start().await;
    make_users(&redis).await;
    let everywhere: [&[&str]; 8] = [
        &["FLUSHALL"],
        &["KEYS", "*"],
        &["CONFIG", "SET", "appendonly", "no"],
        &["EVAL", "return 1", "0"],
        &["SET", "elsewhere", "x"],
        &["ACL", "LIST"],
        &["SHUTDOWN"],
        &["PUBLISH", "a", "b"],
    ];
    for (user, _) in users() {
        assert_refused(&redis, &user, &everywhere).await;
    }
    for user in ["waooaw-replica", "waooaw-operator", "waooaw-auditor"] {
        assert_refused(
            &redis,
            user,
            &[&["FUNCTION", "LOAD", "x"], &["FUNCTION", "FLUSH"], &["GET", "other"]],
        )
        .await;
    }
    assert_refused(&redis, "waooaw-replica", &[&["CONFIG", "GET", "*"], &["SCAN", "0"]]).await;
    assert_refused(
        &redis,
        "waooaw-deploy",
        &[&["GET", "waooaw:{0}:meta"], &["FUNCTION", "FLUSH"]],
    )
    .await;
    assert_refused(
        &redis,
        "waooaw-auditor",
        &[&["SET", "waooaw:x", "y"], &["XDEL", "waooaw:x", "1-1"]],
    )
    .await;
    send_as(&redis, "waooaw-auditor", &["XRANGE", "waooaw:{0}:events", "-", "+"])
        .await
        .unwrap();
}

/// The commands that the functions use, with the arguments that say what they do to which key.
fn commands_of_functions() -> BTreeSet<Vec<String>> {
    let mut commands = BTreeSet::new();
    for call in ["redis.call('", "redis.pcall('"] {
        for (at, _) in LIBRARY.source.match_indices(call) {
            let rest = &LIBRARY.source[at + call.len()..];
            let (name, rest) = rest.split_once('\'').unwrap();
            let mut words = vec![name.to_owned()];
            if ["XGROUP", "XINFO"].contains(&name) {
                // The subcommand comes as a literal.
                words.extend(rest.split('\'').nth(1).map(str::to_owned));
            }
            commands.insert(words);
        }
    }
    commands
}

#[tokio::test]
async fn a_replica_and_an_operator_have_every_right_that_a_function_uses() {
    let redis = TestRedis::start().await;
    make_users(&redis).await;
    let commands = commands_of_functions();
    assert!(commands.len() > 30, "{commands:?}");

    for words in commands {
        let key = "waooaw:{0}:x";
        let rest: Vec<&str> = match words[0].as_str() {
            "TIME" => Vec::new(),
            "XREADGROUP" => vec!["GROUP", "workers", "me", "STREAMS", key, ">"],
            "XGROUP" => match words[1].as_str() {
                "CREATE" => vec![key, "workers", "0", "MKSTREAM"],
                "DELCONSUMER" | "CREATECONSUMER" => vec![key, "workers", "me"],
                "SETID" => vec![key, "workers", "0"],
                _ => vec![key, "workers"],
            },
            "XINFO" if words[1] == "CONSUMERS" => vec![key, "workers"],
            "XINFO" => vec![key],
            _ => {
                // As many arguments as it asks for at least; those that are no keys may be anything.
                let info: Vec<Vec<Value>> = redis.ask(&["COMMAND", "INFO", &words[0]]).await;
                let Value::Int(arity) = info[0][1] else {
                    panic!("{info:?}")
                };
                vec![key; usize::try_from(arity.unsigned_abs()).unwrap() - 1]
            }
        };
        for user in ["waooaw-replica", "waooaw-operator"] {
            let mut dry = vec!["ACL", "DRYRUN", user];
            dry.extend(words.iter().map(String::as_str));
            dry.extend(&rest);
            let answer: String = redis.ask(&dry).await;
            assert_eq!(answer, "OK", "{user}: {words:?} {rest:?}");
        }
    }
}

#[tokio::test]
async fn a_replica_that_lacks_a_right_says_which_and_one_without_info_works() {
    let redis = TestRedis::start().await;
    let settings = replicas(&redis).await;
    let line: Vec<String> = words("ACL SETUSER waooaw-replica -info");
    let _: String = redis.ask(&line.iter().map(String::as_str).collect::<Vec<_>>()).await;

    let mut replica = settings.start().await;
    redis.trigger("one", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("one"), "task.completed").await;
    assert_eq!(replica.stop().await.code(), Some(0));

    let _: String = redis.ask(&["ACL", "SETUSER", "waooaw-replica", "-fcall"]).await;
    let mut replica = settings.spawn();
    assert_eq!(replica.ended().await.code(), Some(1));
    assert!(replica.log().contains("fcall"), "{}", replica.log());
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn rights_that_go_and_come_back_under_a_replica_cost_no_task() {
    let redis = TestRedis::start().await;
    let settings = replicas(&redis).await;
    let mut replica = settings.start().await;
    let mut log = redis.log().await;
    let sleep = json!({ "task_name": "sleep", "kwargs": { "ms": 1500 } });
    let losses: [(&[&str], &[&str]); 2] = [
        (&["-fcall"], &["+fcall"]),
        // The password is changed, say, and those who know the old one are thrown out.
        (&["off"], &["on"]),
    ];

    for (round, (taken, given)) in losses.into_iter().enumerate() {
        redis
            .trigger_all((0..3).map(|number| (format!("{round} {number}"), sleep.clone())))
            .await;
        log.until_count("task.started", 3 * (round + 1)).await;
        let user = ["ACL", "SETUSER", "waooaw-replica"];
        let _: String = redis.ask(&[&user, taken].concat()).await;
        let _: u64 = redis.ask(&["CLIENT", "KILL", "USER", "waooaw-replica"]).await;
        // They end meanwhile, and nobody may say so.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(replica.is_alive(), "{}", replica.log());
        assert_eq!(log.count("task.completed"), 3 * round);
        let _: String = redis.ask(&[&user, given].concat()).await;
        log.until_count("task.completed", 3 * (round + 1)).await;
    }

    assert_eq!((log.count("task.started"), log.count("task.retry_scheduled")), (6, 0));
    assert_eq!(replica.stop().await.code(), Some(0));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_replica_waits_for_its_turn_where_redis_has_as_many_clients_as_it_takes() {
    let redis = TestRedis::start().await;
    let crowd = Client::open(redis.url()).unwrap();
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(crowd.get_multiplexed_async_connection().await.unwrap());
    }
    let _: String = redis.ask(&["CONFIG", "SET", "maxclients", "9"]).await;

    let mut replica = redis.replica().spawn();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(replica.is_alive(), "{}", replica.log());
    connections.clear();
    let _: String = redis.ask(&["CONFIG", "SET", "maxclients", "100"]).await;
    redis.trigger("one", &json!({ "task_name": "noop" })).await;
    redis.log().await.until_task(task_of("one"), "task.completed").await;
    check_all_ended(&redis).await;
}
