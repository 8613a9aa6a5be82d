//! How many tasks of one name may run at a time, over all replicas.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use waooaw_orchestration::runtime::operate;
use waooaw_orchestration::{Operator, Priority};

use crate::support::agent::Agent;
use crate::support::cli::Cli;
use crate::support::history::check_all_ended;
use crate::support::log::Log;
use crate::support::redis::{TestRedis, task_of};
use crate::support::replica::Settings;
use crate::support::scene::{told, verify};
use crate::support::{holds, wait_for};

const RUNNING: &str = "waooaw:{0}:running:sleep";

fn limited(redis: &TestRedis, max_running: u32) -> Settings {
    let config = format!("[handlers.sleep]\nkind = \"builtin\"\nmax_running = {max_running}\n");
    redis.replica().workers(4).config(&config)
}

fn sleeper(ms: u64, priority: &str) -> Value {
    json!({ "task_name": "sleep", "kwargs": { "ms": ms }, "priority": priority })
}

async fn sleepers(redis: &TestRedis, kind: &str, count: usize, ms: u64) {
    redis
        .trigger_all((0..count).map(|number| (format!("{kind} {number}"), sleeper(ms, "NORMAL"))))
        .await;
}

/// How many tasks of the name ran after each event from a place on.
fn running(log: &Log<'_>, name: &str) -> Vec<usize> {
    let mut running = BTreeSet::new();
    log.events
        .iter()
        .map(|event| {
            if event.kind == "task.started" && event.text("task_name") == name {
                running.insert(&event.subject);
            } else if event.kind.starts_with("task.") {
                running.remove(&event.subject);
            }
            running.len()
        })
        .collect()
}

fn most(log: &Log<'_>, name: &str) -> usize {
    running(log, name).into_iter().max().unwrap_or_default()
}

#[tokio::test]
async fn three_replicas_together_never_run_more_of_a_name_than_may_and_keep_the_order() {
    let redis = TestRedis::start().await;
    let _replicas = limited(&redis, 2).start_many(3).await;
    let mut log = redis.log().await;

    sleepers(&redis, "first", 2, 6000).await;
    log.until_count("task.started", 2).await;
    for (priority, count) in [("BACKGROUND", 6), ("NORMAL", 8), ("HIGH", 6), ("NORMAL", 6)] {
        let tag = format!("{priority} {count}");
        redis
            .trigger_all((0..count).map(|number| (format!("{tag} {number}"), sleeper(30, priority))))
            .await;
    }
    // They are in nobody's way, however many they are and whatever their priority.
    redis
        .trigger_all((0..60).map(|number| {
            let noop = json!({ "task_name": "noop", "priority": "BACKGROUND" });
            (format!("noop {number}"), noop)
        }))
        .await;
    log.until_count("task.created", 88).await;
    log.until_count("task.completed", 88).await;

    assert_eq!(most(&log, "sleep"), 2);
    let ends = log.all("task.completed");
    let first_end = ends.iter().position(|event| event.text("task_name") == "sleep");
    assert_eq!(first_end, Some(60), "some waited for a name that is not theirs");
    // Highest priority first, and within one in the order in which they were made.
    let rank = |event: &str| event.parse::<Priority>().unwrap().rank();
    let mut due: Vec<(u8, &str)> = log
        .all("task.created")
        .into_iter()
        .filter(|event| event.text("task_name") == "sleep")
        .map(|event| (rank(event.text("priority")), event.subject.as_str()))
        .collect();
    due[2..].sort_by_key(|(rank, _)| *rank);
    let due: Vec<&str> = due.into_iter().map(|(_, subject)| subject).collect();
    let starts: Vec<&str> = log
        .all("task.started")
        .into_iter()
        .filter(|event| event.text("task_name") == "sleep")
        .map(|event| event.subject.as_str())
        .collect();
    assert_eq!(starts[2..], due[2..]);
    let waits: Vec<String> = redis.ask(&["HKEYS", "waooaw:{0}:aside"]).await;
    assert_eq!(waits, Vec::<String>::new());
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_long_row_at_its_limit_lets_others_pass_with_one_worker() {
    let redis = TestRedis::start().await;
    let replica = limited(&redis, 1).workers(2).start().await;
    let mut log = redis.log().await;
    sleepers(&redis, "row", 400, 3).await;
    redis.trigger("noop", &json!({ "task_name": "noop" })).await;

    log.until_task(task_of("noop"), "task.completed").await;
    let before = log.count("task.completed");
    assert!(before < 300, "it waited for {before} of the others");
    log.until_count("task.completed", 401).await;

    assert_eq!(most(&log, "sleep"), 1);
    drop(replica);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_a_killed_replica_ran_leaves_room_for_others() {
    let redis = TestRedis::start().await;
    let mut victim = limited(&redis, 2).start().await;
    let mut log = redis.log().await;
    sleepers(&redis, "held", 6, 1500).await;
    log.until_count("task.started", 2).await;
    let _others = limited(&redis, 2).start_many(2).await;

    victim.kill();
    log.until_count("task.completed", 6).await;

    assert_eq!(most(&log, "sleep"), 2);
    assert!(log.count("task.retry_scheduled") >= 1, "{}", log.summary());
    wait_for("nothing counts as running", async || {
        let left: usize = redis.ask(&["SCARD", RUNNING]).await;
        holds(left == 0, || format!("{left} do"))
    })
    .await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn the_smallest_limit_of_all_replicas_counts_until_its_replica_is_gone() {
    let redis = TestRedis::start().await;
    // Nobody has a limit, and five run.
    let mut free = redis.replica().workers(5).start().await;
    let mut log = redis.log().await;
    sleepers(&redis, "before", 5, 2500).await;
    log.until_count("task.started", 5).await;
    sleepers(&redis, "under one", 4, 300).await;

    // One that allows a single one: the five are found, and nothing starts until they have ended.
    let mut strict = limited(&redis, 1).start().await;
    let strict_id = strict.id().await;
    let mild = limited(&redis, 3).start().await;
    log.until_count("task.completed", 9).await;
    let joined = log
        .events
        .iter()
        .position(|event| event.subject == strict_id && event.text("state") == "joined")
        .unwrap();
    let counts = running(&log, "sleep");
    let after = log.events.iter().zip(&counts).skip(joined);
    for (event, count) in after.filter(|(event, _)| event.kind == "task.started") {
        assert_eq!(*count, 1, "{event:?}");
    }

    // Without it three may run, and the one without an opinion has no say.
    assert!(strict.stop().await.success());
    let started = log.events.len();
    sleepers(&redis, "under three", 9, 300).await;
    log.until_count("task.completed", 18).await;
    assert_eq!(running(&log, "sleep")[started..].iter().max(), Some(&3));

    // And without any limit, as many as there are workers.
    assert!(free.stop().await.success());
    let limits: BTreeMap<String, String> = redis.ask(&["HGETALL", "waooaw:{0}:limits"]).await;
    assert_eq!(limits, BTreeMap::from([("sleep".to_owned(), "3".to_owned())]));
    drop(mild);
    let _open = redis.replica().workers(6).start().await;
    wait_for("the limit is forgotten with the last that has it", async || {
        let left: usize = redis.ask(&["EXISTS", "waooaw:{0}:limits", RUNNING]).await;
        holds(left == 0, || "it is known".to_owned())
    })
    .await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_task_at_its_limit_says_so_and_what_does_not_agree_is_found_and_mended() {
    let redis = TestRedis::start().await;
    let _replica = limited(&redis, 1).start().await;
    let mut log = redis.log().await;
    sleepers(&redis, "row", 2, 60_000).await;
    log.until_count("task.started", 1).await;
    log.until_count("task.created", 2).await;
    let started = log.all("task.started")[0].subject.clone();
    let [one, other] = ["row 0", "row 1"].map(task_of);
    let (runs, waits) = if one.to_string() == started {
        (one, other)
    } else {
        (other, one)
    };
    wait_for("it is parked", async || {
        let said = Cli::on(&redis, &["task", "explain", &waits.to_string(), "--output", "json"])
            .json()
            .await;
        let details = &said["details"];
        holds(
            said["reason"] == "limit_reached" && details["max_running"] == 1 && details["running"] == 1,
            || said.to_string(),
        )
    })
    .await;

    // Somebody tampers: one that does not run counts, and the one that runs does not.
    let stranger = task_of("nobody").to_string();
    redis.ask::<usize>(&["SADD", RUNNING, &stranger]).await;
    redis.ask::<usize>(&["SREM", RUNNING, &runs.to_string()]).await;
    let report = verify(&redis.store()).await;
    assert_eq!(report.violations.len(), 2, "{}", told(&report.violations));
    Cli::on(&redis, &["doctor", "--repair", "--yes"]).run().await.expect(0);
    let counted: Vec<String> = redis.ask(&["SMEMBERS", RUNNING]).await;
    assert_eq!(counted, [runs.to_string()]);

    // A cancel leaves room at once, also for one that another client asks to be cancelled.
    redis.cancel("stop", runs).await;
    log.until_task(waits, "task.started").await;
    redis.cancel("stop too", waits).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_a_stopping_replica_hands_back_leaves_room() {
    let redis = TestRedis::start().await;
    let settings = limited(&redis, 2).set("WAOOAW_SHUTDOWN__GRACE", "100ms");
    let mut leaving = settings.start().await;
    let mut log = redis.log().await;
    sleepers(&redis, "long", 3, 4000).await;
    log.until_count("task.started", 2).await;
    let _other = settings.start().await;

    assert!(leaving.stop().await.success());
    log.until_count("task.completed", 3).await;

    assert_eq!(log.count("task.released"), 2, "{}", log.summary());
    assert_eq!(log.count("task.retry_scheduled"), 0);
    assert_eq!(most(&log, "sleep"), 2);
    check_all_ended(&redis).await;
}

/// The name `quote` is carried out by the agent `sales`, up to so many at a time; it may be silent for so many seconds.
fn for_agent(redis: &TestRedis, max_running: u32, silence: u32) -> Settings {
    let config = format!(
        "[handlers.quote]\nkind = \"agent\"\nagent_id = \"sales\"\nheartbeat_timeout_seconds = {silence}\n\
         max_running = {max_running}\n"
    );
    redis.replica().config(&config)
}

async fn quotes(redis: &TestRedis, kind: &str, count: usize, priority: &str) {
    let quote = json!({ "task_name": "quote", "priority": priority });
    redis
        .trigger_all((0..count).map(|number| (format!("{kind} {number}"), quote.clone())))
        .await;
}

/// Ends what the agent is given until so many have completed; answers how many it held at most.
async fn work_off(agent: &Agent<'_>, log: &mut Log<'_>, count: usize) -> usize {
    let mut held = 0;
    wait_for(&format!("{count} tasks have completed"), async || {
        let letters = agent.read().await;
        held = held.max(letters.len());
        for letter in letters
            .iter()
            .filter(|letter| letter.kind == "orchestration.task.assigned")
        {
            agent.complete(letter, json!(1)).await;
        }
        log.refresh().await;
        holds(log.count("task.completed") >= count, || log.summary())
    })
    .await;
    held
}

#[tokio::test]
async fn an_agent_never_has_more_of_a_name_than_may_run() {
    let redis = TestRedis::start().await;
    let _replicas = for_agent(&redis, 3, 60).start_many(2).await;
    let mut log = redis.log().await;
    quotes(&redis, "low", 10, "LOW").await;
    log.until_count("task.created", 10).await;
    quotes(&redis, "high", 10, "HIGH").await;
    // Others of the same agent are not in question.
    redis
        .trigger("other", &json!({ "task_name": "other", "agent_id": "sales" }))
        .await;
    log.until_count("task.created", 21).await;
    log.until_count("task.started", 4).await;

    let waits = task_of("high 9");
    let said = Cli::on(&redis, &["task", "explain", &waits.to_string(), "--output", "json"])
        .json()
        .await;
    assert_eq!(
        (
            &said["reason"],
            &said["details"]["running"],
            &said["details"]["max_running"]
        ),
        (&json!("limit_reached"), &json!(3), &json!(3)),
        "{said}"
    );
    let list = Cli::on(&redis, &["task", "list", "--limit", "100", "--output", "json"]);
    let listed = list.json().await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 21, "{listed}");
    let held = work_off(&Agent::new(&redis, "sales"), &mut log, 21).await;

    assert!((1..=4).contains(&held), "{held}");
    assert_eq!(most(&log, "quote"), 3);
    // Three had begun; of the others those of higher priority come first, and each in the order in which they came.
    let starts: Vec<&str> = log
        .all("task.started")
        .into_iter()
        .filter(|event| event.text("task_name") == "quote")
        .map(|event| event.subject.as_str())
        .collect();
    let of_priority = |wanted: &'static str| {
        let created = log.all("task.created").into_iter();
        created.filter(move |event| event.text("task_name") == "quote" && event.text("priority") == wanted)
    };
    let due: Vec<&str> = of_priority("HIGH")
        .chain(of_priority("LOW").skip(3))
        .map(|event| event.subject.as_str())
        .collect();
    assert_eq!(starts[3..], due);
    let left: Vec<String> = redis.ask(&["SMEMBERS", "waooaw:{0}:running:quote"]).await;
    let waits: Vec<String> = redis.ask(&["HKEYS", "waooaw:{0}:aside"]).await;
    assert_eq!((left, waits), (Vec::new(), Vec::new()));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn what_an_agent_is_told_to_stop_loses_or_gives_back_leaves_room() {
    let redis = TestRedis::start().await;
    let mut replica = for_agent(&redis, 1, 1).start().await;
    let mut log = redis.log().await;
    let agent = Agent::new(&redis, "sales");
    redis.trigger("first", &json!({ "task_name": "quote" })).await;
    let first = task_of("first");
    log.until_task(first, "task.started").await;

    // Somebody tampers, while nothing waits that could take the place; it is found, and mended.
    redis
        .ask::<usize>(&["SREM", "waooaw:{0}:running:quote", &first.to_string()])
        .await;
    let report = verify(&redis.store()).await;
    assert_eq!(report.violations.len(), 1, "{}", told(&report.violations));
    Cli::on(&redis, &["doctor", "--repair", "--yes"]).run().await.expect(0);
    assert_eq!(verify(&redis.store()).await.violations.len(), 0);

    for name in ["second", "third"] {
        redis.trigger(name, &json!({ "task_name": "quote" })).await;
        log.until_task(task_of(name), "task.created").await;
    }
    let [second, third] = ["second", "third"].map(task_of);
    let quote = json!({ "task_name": "quote", "priority": "HIGH", "queue": "slow" });
    redis.trigger("paused", &quote).await;
    let paused = task_of("paused");
    wait_for("all are parked", async || {
        let parked: String = redis.ask(&["HGET", "waooaw:{0}:meta", "parked"]).await;
        holds(parked == "3", || parked)
    })
    .await;
    let operator = Operator::new("tester", None);
    operate::pause_queue(&redis.store(), &operator, "slow").await.unwrap();

    // A cancel leaves room at once; what waits in a paused queue does not take it.
    redis.cancel("stop", first).await;
    log.until_task(second, "task.started").await;
    // The agent outlives the replica, and what it holds counts on.
    replica.kill();
    let _other = for_agent(&redis, 1, 1).start().await;
    wait_for("the agent has the second", async || {
        let letters = agent.read().await;
        let has = letters
            .iter()
            .any(|letter| letter.payload["task_id"] == second.to_string());
        holds(has, || format!("{letters:?}"))
    })
    .await;
    // Read, and never answered: lost, and at the tail of its priority again.
    log.until_task(second, "task.retry_scheduled").await;
    log.until_task(third, "task.started").await;
    work_off(&agent, &mut log, 2).await;

    assert_eq!(log.life(third).last(), Some(&"completed"));
    operate::resume_queue(&redis.store(), &operator, "slow").await.unwrap();
    work_off(&agent, &mut log, 3).await;
    assert_eq!(log.life(paused).last(), Some(&"completed"));
    assert_eq!(most(&log, "quote"), 1);
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_limit_that_is_new_counts_what_agents_have_and_one_that_goes_lets_the_others_through() {
    let redis = TestRedis::start().await;
    let config = "[handlers.quote]\nkind = \"agent\"\nagent_id = \"sales\"\n";
    let free = redis.replica().config(config).start().await;
    let mut log = redis.log().await;
    let agent = Agent::new(&redis, "sales");
    quotes(&redis, "before", 5, "NORMAL").await;
    log.until_count("task.started", 5).await;

    let mut strict = for_agent(&redis, 2, 60).start().await;
    let joined = log.events.len();
    quotes(&redis, "under two", 6, "NORMAL").await;
    log.until_count("task.created", 11).await;
    work_off(&agent, &mut log, 8).await;
    let counts = running(&log, "quote");
    let after = log.events.iter().zip(&counts).skip(joined);
    for (event, count) in after.filter(|(event, _)| event.kind == "task.started") {
        assert!(*count <= 2, "{count}: {event:?}");
    }

    // Without it all that wait go to the agent, without anybody's doing.
    quotes(&redis, "free", 6, "NORMAL").await;
    log.until_count("task.created", 17).await;
    assert!(strict.stop().await.success());
    log.until_count("task.started", 17).await;

    work_off(&agent, &mut log, 17).await;
    drop(free);
    check_all_ended(&redis).await;
}
