//! The audit: silent about a good system, also while it works, and loud about each broken guarantee.

use serde_json::json;
use waooaw_orchestration::domain::history::Guarantee;
use waooaw_orchestration::domain::id::Partition;
use waooaw_orchestration::runtime::audit::{self, Scope};
use waooaw_orchestration::runtime::doctor::{self, Expectations, Status};
use waooaw_orchestration::runtime::request::new_actor;
use waooaw_orchestration::store::audit::Question;

use crate::support::cli::Cli;
use crate::support::history::{check, check_all_ended};
use crate::support::redis::{TestRedis, task_of};
use crate::support::scene::{Scene, told, verify};
use crate::support::{holds, wait_for};

const P: &str = "waooaw:{0}:";

/// An event written by hand.
fn event(subject: &str, seq: u64, kind: &str, cause: &str, payload: &str) -> String {
    format!(
        "XADD {P}events * event_type orchestration.{kind} source_agent hand event_id {subject}/{seq} correlation_id c \
         causation_id {cause} timestamp 2026-01-31T12:00:00.000Z payload {payload}"
    )
}

struct Break {
    what: &'static str,
    commands: Vec<String>,
    guarantee: Guarantee,
    subject: String,
    /// Whether a repair makes everything good again.
    is_mendable: bool,
}

#[allow(clippy::too_many_lines, reason = "a flat table")]
async fn breaks(scene: &Scene) -> Vec<Break> {
    use Guarantee::{
        Compensations, Counters, DeadLetters, Dependencies, LegalPath, OncePerTrigger, OneEndPerLife, Owners, Places,
        RetryBudget, Sagas, Sequence, StoredState, Workflows,
    };
    let mut list = Vec::new();
    let mut add = |what, commands: &[String], guarantee, subject: &dyn ToString, is_mendable| {
        list.push(Break {
            what,
            commands: commands.to_vec(),
            guarantee,
            subject: subject.to_string(),
            is_mendable,
        });
    };
    let (completed, failed, retried) = (scene.completed, scene.failed, scene.retried);
    let (running, waiting, blocked) = (scene.running, scene.waiting, scene.blocked);
    let (delayed, parked) = (scene.delayed, scene.parked);
    let record = |id: &dyn ToString| format!("{P}t:{}", id.to_string());
    let queue = format!("{P}queue:default:normal");
    let park = format!("{P}parked:nobody_runs_this:normal");
    let other = "00000000-0000-8000-8000-000000000000";
    let (waits_at, runs_at, parked_at) = (
        scene.entry(waiting).await,
        scene.entry(running).await,
        scene.entry(parked).await,
    );

    // The log against itself.
    let created = r#"{"attempt":0,"trigger_event_id":"e-1"}"#;
    add(
        "created by something else",
        &[event(other, 1, "task.created", "e-2", created)],
        OncePerTrigger,
        &other,
        false,
    );
    add(
        "the end of a saga that was not started",
        &[event("s", 1, "saga.completed", "e-1", r#"{"saga_id":"s"}"#)],
        Sagas,
        &"s",
        false,
    );
    add(
        "a step to be undone that never was",
        &[
            event("s", 1, "saga.started", "e-1", r#"{"saga_id":"s","total_steps":0}"#),
            event("s", 2, "saga.compensating", "s/1", r#"{"steps_to_compensate":["a"]}"#),
        ],
        Compensations,
        &"s",
        false,
    );
    add(
        "an end after the end",
        &[event(
            &completed.to_string(),
            4,
            "task.cancelled",
            "x",
            r#"{"attempt":1}"#,
        )],
        OneEndPerLife,
        &completed,
        false,
    );
    let place = scene.event(retried, 4).await;
    add(
        "an event removed",
        &[format!("XDEL {P}events {place}")],
        Sequence,
        &retried,
        false,
    );
    add(
        "the newest events removed",
        &[format!("XTRIM {P}events MAXLEN 1")],
        Sequence,
        &"log",
        false,
    );
    let again = event(&completed.to_string(), 2, "task.started", "x", r#"{"attempt":1}"#);
    add("a number twice", &[again], Sequence, &completed, false);
    let ended = event(&waiting.to_string(), 2, "task.completed", "x", r#"{"attempt":0}"#);
    add("an end without a start", &[ended], LegalPath, &waiting, false);
    let second = event(&running.to_string(), 3, "task.started", "x", r#"{"attempt":2}"#);
    add("a second start", &[second], LegalPath, &running, false);
    let child = format!(r#"{{"attempt":0,"trigger_event_id":"e-1","blocked_by":["{waiting}"]}}"#);
    add(
        "a start before what it depends on",
        &[
            event(other, 1, "task.created", "e-1", &child),
            event(other, 2, "task.started", "x", r#"{"attempt":1}"#),
        ],
        Dependencies,
        &other,
        false,
    );

    add(
        "a workflow that ends before its tasks",
        &[
            event("flow", 1, "workflow.started", "e-1", r#"{"total_tasks":1}"#),
            event("flow", 2, "workflow.completed", "x", r#"{"total_tasks":1}"#),
        ],
        Workflows,
        &"flow",
        false,
    );

    // The log against the records.
    add(
        "another state",
        &[format!("SETRANGE {} 0 F", record(&completed))],
        StoredState,
        &completed,
        false,
    );
    add(
        "a record removed",
        &[format!("DEL {}", record(&completed))],
        StoredState,
        &completed,
        false,
    );
    add(
        "a number in the record",
        &[format!("SETRANGE {} 19 \t", record(&retried))],
        StoredState,
        &retried,
        false,
    );
    add(
        "a record that nobody told of",
        &[format!("COPY {} {P}t:{other}", record(&completed))],
        OncePerTrigger,
        &other,
        false,
    );
    add(
        "fewer retries than were used",
        &[format!("SETRANGE {} 15 \u{1}", record(&retried))],
        RetryBudget,
        &retried,
        false,
    );

    // Where tasks stand.
    add(
        "its entry removed",
        &[format!("XDEL {queue} {waits_at}")],
        Places,
        &waiting,
        true,
    );
    add(
        "its parked entry removed",
        &[format!("XDEL {park} {parked_at}")],
        Places,
        &parked,
        true,
    );
    add(
        "a group that went past it",
        &[format!("XGROUP SETID {queue} workers $")],
        Places,
        &waiting,
        true,
    );
    add(
        "a group removed",
        &[format!("XGROUP DESTROY {park} workers")],
        Places,
        &parked,
        true,
    );
    add(
        "a queue not listed",
        &[format!("SREM {P}queues default")],
        Places,
        &waiting,
        true,
    );
    add(
        "a parked name not listed",
        &[format!("SREM {P}parks nobody_runs_this")],
        Places,
        &parked,
        true,
    );
    add(
        "its timer removed",
        &[format!("ZREM {P}timers {delayed}")],
        Places,
        &delayed,
        true,
    );
    add(
        "a timer of nobody",
        &[format!("ZADD {P}timers 9999999999999 {other}")],
        Places,
        &other,
        true,
    );
    add(
        "a timer of what ended",
        &[format!("ZADD {P}timers 9999999999999 {completed}")],
        Places,
        &completed,
        true,
    );
    add(
        "an entry of nobody",
        &[format!("XADD {queue} * t {other}")],
        Places,
        &other,
        true,
    );
    add(
        "a second entry",
        &[format!("XADD {queue} * t {waiting}")],
        Places,
        &waiting,
        true,
    );
    add(
        "an entry of what ended",
        &[format!("XADD {queue} * t {completed}")],
        Places,
        &completed,
        true,
    );
    add(
        "its entry held by a stranger",
        &[format!("XREADGROUP GROUP workers stranger COUNT 1 STREAMS {queue} >")],
        Owners,
        &waiting,
        true,
    );
    let owner_gone = format!("HDEL {P}beats {}", scene.replica);
    add(
        "what runs is held by nobody",
        &[format!("XACK {queue} workers {runs_at}"), owner_gone],
        Owners,
        &running,
        true,
    );
    add(
        "what runs is held by another",
        &[format!("XCLAIM {queue} workers stranger 0 {runs_at}")],
        Owners,
        &running,
        true,
    );
    add(
        "held and not there",
        &[
            format!("XDEL {queue} {runs_at}"),
            format!("HDEL {P}beats {}", scene.replica),
        ],
        Owners,
        &running,
        true,
    );
    add(
        "what it waits for is not open",
        &[format!("HSET {P}d:{blocked} left 0")],
        Dependencies,
        &blocked,
        true,
    );

    // Dead letters and counters.
    let letter = format!("{failed}.1");
    add(
        "a copy removed",
        &[format!("DEL {P}dead:{letter}")],
        DeadLetters,
        &letter,
        true,
    );
    add(
        "a dead letter removed",
        &[format!("DEL {P}dead:{letter}"), format!("ZREM {P}dead {letter}")],
        DeadLetters,
        &letter,
        false,
    );
    add(
        "a dead letter of nobody",
        &[format!("ZADD {P}dead 1 {other}.1")],
        DeadLetters,
        &format!("{other}.1"),
        true,
    );
    for name in ["p0", "p1", "running", "parked", "opening", "backlog"] {
        add(
            "a counter",
            &[format!("HINCRBY {P}meta {name} 3")],
            Counters,
            &name,
            true,
        );
    }
    add(
        "a counter of ends",
        &[format!("HINCRBY {P}meta completed 1")],
        Counters,
        &"completed",
        false,
    );
    add(
        "a count of workflows",
        &[format!("HINCRBY {P}groups workflow 1")],
        Counters,
        &"workflow",
        false,
    );
    add(
        "a sum",
        &[format!("HINCRBY {P}meta duration_ms 1000")],
        Counters,
        &"duration_ms",
        false,
    );
    list
}

#[tokio::test]
async fn each_broken_guarantee_is_named_with_its_ids_and_what_can_be_mended_is() {
    let scene = Scene::start().await;
    let report = scene.verify().await;
    assert!(report.ok, "{}", told(&report.violations));
    assert_eq!(
        (report.records, report.in_motion.pending, report.in_motion.running),
        (8, 4, 1)
    );
    let mut caught = std::collections::BTreeSet::new();

    for broken in breaks(&scene).await {
        scene.restore().await;
        scene.write(&broken.commands).await;
        let what = broken.what;

        let report = scene.verify().await;

        let found = told(&report.violations);
        let is_named =
            |finding: &&audit::Finding| finding.guarantee == broken.guarantee && finding.subject == broken.subject;
        assert!(
            !report.ok && report.violations.iter().any(|finding| is_named(&finding)),
            "{what}:\n{found}"
        );
        caught.insert(broken.guarantee);
        if !broken.is_mendable {
            continue;
        }
        let look = async || {
            doctor::examine(&scene.store, Expectations::default(), &|_| {})
                .await
                .unwrap()
        };
        let (diagnosis, findings) = look().await;
        assert!(!diagnosis.ok, "{what}: {diagnosis:?}");
        let mended = doctor::mend(&scene.store, new_actor(), "tester", &findings, &|_| {})
            .await
            .unwrap();
        let (after, findings) = look().await;
        assert!(after.ok && !mended.is_empty(), "{what}: {mended:?} {after:?}");
        let twice = doctor::mend(&scene.store, new_actor(), "tester", &findings, &|_| {})
            .await
            .unwrap();
        assert!(twice.is_empty(), "{what}: {twice:?}");
        let report = scene.verify().await;
        assert!(report.ok, "{what}, mended {mended:?}:\n{}", told(&report.violations));
    }

    assert_eq!(caught.into_iter().collect::<Vec<_>>(), Guarantee::ALL);
    scene.restore().await;
    assert!(scene.verify().await.ok);
}

#[tokio::test]
async fn a_look_tells_that_history_went_back() {
    let scene = Scene::start().await;
    let last = scene.verify().await.upto[0].parse().unwrap();
    let stands = async |position| {
        let question = Question {
            position: Some(position),
            ..Question::default()
        };
        scene
            .store
            .inspect(Partition::default(), question)
            .await
            .unwrap()
            .stands
    };

    assert!(stands(last).await);
    scene.write(&[format!("XDEL {P}events {last}")]).await;
    assert!(!stands(last).await);
    scene.write(&[format!("HSET {P}meta trimmed_to {last}")]).await;
    assert!(stands(last).await);
}

#[tokio::test]
async fn a_trimmed_log_is_audited_as_far_as_it_reaches() {
    let scene = Scene::start().await;
    let upto = scene.event(scene.completed, 3).await;
    let (ms, seq) = upto.split_once('-').unwrap();
    let next = format!("{ms}-{}", seq.parse::<u64>().unwrap() + 1);

    scene
        .write(&[
            format!("XTRIM {P}events MINID {next}"),
            format!("DEL {P}t:{}", scene.completed),
            format!("HSET {P}meta trimmed_to {upto} trimmed_events 4 trimmed_tasks 1"),
        ])
        .await;
    let report = scene.verify().await;

    assert!(report.ok, "{}", told(&report.violations));
    assert_eq!(report.not_covered.len(), 1);
    assert_eq!(
        (report.not_covered[0].trimmed_to.as_str(), report.not_covered[0].events),
        (upto.as_str(), 4)
    );
    // What was not trimmed must still be there.
    scene.write(&[format!("DEL {P}t:{}", scene.retried)]).await;
    assert_eq!(scene.verify().await.violations[0].subject, scene.retried.to_string());
}

#[tokio::test]
async fn a_cut_is_told_and_is_no_violation() {
    let scene = Scene::start().await;
    let told_of = event(
        "r-00000001",
        1,
        "history.rolled_back",
        "r-00000001/1",
        r#"{"last_seen":"9-0","now_at":"5-0"}"#,
    );
    scene.write(&[told_of]).await;

    let report = scene.verify().await;

    assert!(report.ok, "{}", told(&report.violations));
    assert_eq!((report.cuts.len(), report.cuts[0].now_at.as_str()), (1, "5-0"));
}

#[tokio::test]
async fn an_audit_beside_a_system_under_load_raises_no_false_alarm() {
    let redis = TestRedis::start().await;
    let settings = redis.replica().workers(8).set("WAOOAW_QUEUE__MAX_SIZE", "0");
    let mut replicas = settings.start_many(3).await;
    let kinds = [
        json!({ "task_name": "noop", "priority": "high" }),
        json!({ "task_name": "sleep", "kwargs": { "ms": 20 }, "priority": "low" }),
        json!({ "task_name": "flaky", "kwargs": { "fail_times": 2 }, "retry": { "initial_delay_seconds": 0.05 } }),
        json!({ "task_name": "fail", "kwargs": { "message": "no", "permanent": true } }),
        json!({ "task_name": "echo", "delay_seconds": 0.2, "queue": "other" }),
    ];
    let triggers = (0..6000).map(|number| (format!("e-{number}"), kinds[number % kinds.len()].clone()));
    let published = redis.trigger_all(triggers);
    let audited = async {
        let store = redis.store();
        let (mut audits, mut at_work) = (0, 0);
        loop {
            for scope in [Scope::Everything, Scope::Store] {
                let report = audit::verify(&store, scope, &|_| {}).await.unwrap();
                assert!(report.ok, "{scope:?}:\n{}", told(&report.violations));
                audits += 1;
                at_work += u32::from(report.in_motion.running > 0);
                let ended: u64 = ["COMPLETED", "FAILED"]
                    .iter()
                    .filter_map(|state| report.tasks.get(state))
                    .sum();
                if scope == Scope::Everything && ended == 6000 {
                    return (audits, at_work);
                }
            }
            if audits == 2 {
                replicas[0].kill();
            }
        }
    };

    let ((), (audits, at_work)) = tokio::join!(published, audited);

    assert!(at_work >= 1, "none of {audits} audits saw tasks run");
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn the_command_line_audits_and_tells_the_history_of_a_task() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    redis
        .trigger(
            "e-1",
            &json!({ "task_name": "flaky", "kwargs": { "fail_times": 1 }, "retry": "QUICK" }),
        )
        .await;
    redis.log().await.until_count("task.completed", 1).await;
    let id = task_of("e-1").to_string();

    let report = Cli::on(&redis, &["audit", "verify", "--output", "json"]).json().await;
    assert_eq!(
        (&report["ok"], &report["violation_count"]),
        (&json!(true), &json!(0)),
        "{report}"
    );
    assert_eq!(report["tasks"], json!({ "COMPLETED": 1 }));
    let names: Vec<&str> = report["guarantees"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), Guarantee::ALL.len());
    let text = Cli::on(&redis, &["audit", "verify"]).run().await.expect(0);
    text.is_plain();
    assert!(text.out.contains("every guarantee holds"), "{text:?}");

    let timeline = Cli::on(&redis, &["audit", "task", &id, "--output", "json"])
        .json()
        .await;
    let steps: Vec<&str> = timeline["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["event"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["created", "started", "retry_scheduled", "started", "completed"]);
    assert_eq!(
        (&timeline["complete"], &timeline["state"]),
        (&json!(true), &json!("COMPLETED"))
    );
    assert_eq!(timeline["events"][2]["error"]["type"], "handler_error");
    assert_eq!(timeline["events"][3]["attempt"], 2);
    let text = Cli::on(&redis, &["audit", "task", &id]).run().await.expect(0);
    assert!(text.out.contains("because of e-1"), "{text:?}");
    let unknown = "00000000-0000-8000-8000-000000000000";
    Cli::on(&redis, &["audit", "task", unknown, "--output", "json"])
        .run()
        .await
        .refused(4, "TaskNotFound");
    Cli::on(&redis, &["audit", "task", "x"]).run().await.expect(4);

    // Without its record the whole log is searched.
    let () = redis.ask(&["DEL", &format!("{P}t:{id}")]).await;
    let timeline = Cli::on(&redis, &["audit", "task", &id, "--output", "json"])
        .json()
        .await;
    assert_eq!(
        (timeline["events"].as_array().unwrap().len(), &timeline["state"]),
        (5, &json!(null))
    );
    let broken = Cli::on(&redis, &["audit", "verify", "--output", "json"])
        .run()
        .await
        .expect(1);
    assert_eq!(broken.json()["violations"][0]["guarantee"], "stored_state");
    assert_eq!(broken.json()["violations"][0]["subject"], id);
    assert_eq!(broken.error()["code"], "AuditFailed");
}

#[tokio::test]
async fn a_task_explains_itself() {
    let scene = Scene::start().await;
    let explain = async |id: waooaw_orchestration::TaskId| {
        Cli::on(&scene.redis, &["task", "explain", &id.to_string(), "--output", "json"])
            .json()
            .await
    };

    let blocked = explain(scene.blocked).await;
    assert_eq!(blocked["reason"], "blocked");
    assert_eq!(
        blocked["details"]["blocked_by"][0]["task_id"],
        scene.waiting.to_string()
    );
    let delayed = explain(scene.delayed).await;
    assert_eq!(delayed["reason"], "delayed");
    assert!(
        delayed["details"]["due_in_ms"].as_i64().unwrap() > 3_000_000,
        "{delayed}"
    );
    let parked = explain(scene.parked).await;
    assert_eq!(
        (&parked["reason"], &parked["details"]["handlers"]),
        (&json!("no_handler"), &json!(["work"]))
    );
    assert_eq!(explain(scene.waiting).await["reason"], "next");
    let running = explain(scene.running).await;
    assert_eq!(running["details"]["worker_id"], format!("{}/1", scene.replica));
    assert_eq!(running["reason"], "running");
    let failed = explain(scene.failed).await;
    assert_eq!(
        (&failed["reason"], &failed["state"]),
        (&json!("ended"), &json!("FAILED"))
    );
    assert_eq!(failed["details"]["error"]["message"], "no luck");
    assert_eq!(failed["details"]["dead_letter_id"], format!("{}.1", scene.failed));

    scene.write(&[format!("HSET {P}meta max_running 1")]).await;
    assert_eq!(explain(scene.waiting).await["reason"], "limit_reached");
    scene
        .write(&[format!(r#"HSET {P}paused default {{"actor":"ann"}}"#)])
        .await;
    assert_eq!(explain(scene.waiting).await["reason"], "queue_paused");
    let told = Cli::on(&scene.redis, &["task", "explain", &scene.waiting.to_string()])
        .run()
        .await
        .expect(0);
    assert!(
        told.out.contains("by ann") && told.out.contains("actor ann") && !told.out.contains('{'),
        "{told:?}"
    );
    scene
        .write(&[
            format!("DEL {P}paused"),
            format!("HSET {P}replica:{} state draining", scene.replica),
        ])
        .await;
    let draining = explain(scene.waiting).await;
    assert_eq!(draining["reason"], "no_replicas");
    assert_eq!(
        draining["details"]["draining"],
        serde_json::json!([scene.replica.to_string()])
    );
    scene
        .write(&[
            format!("HSET {P}replica:{} seen_ms 1", scene.replica),
            format!("ZADD {P}timers 1 {}", scene.delayed),
        ])
        .await;
    assert_eq!(explain(scene.waiting).await["reason"], "no_replicas");
    assert_eq!(explain(scene.delayed).await["reason"], "no_replicas");
    assert_eq!(explain(scene.running).await["reason"], "owner_silent");
    let text = Cli::on(&scene.redis, &["task", "explain", &scene.blocked.to_string()])
        .run()
        .await
        .expect(0);
    assert!(
        text.out.starts_with("PENDING: it waits for 1 other task to end"),
        "{text:?}"
    );
    let unknown = "00000000-0000-8000-8000-000000000000";
    Cli::on(&scene.redis, &["task", "explain", unknown, "--output", "json"])
        .run()
        .await
        .refused(4, "TaskNotFound");
}

#[tokio::test]
async fn a_retry_that_waits_says_what_its_last_attempt_met() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let retry = json!({ "initial_delay_seconds": 600, "max_delay_seconds": 600 });
    redis
        .trigger(
            "e-1",
            &json!({ "task_name": "fail", "kwargs": { "message": "out of paper" }, "retry": retry }),
        )
        .await;
    redis.log().await.until_count("task.retry_scheduled", 1).await;

    let id = task_of("e-1").to_string();
    let waits = Cli::on(&redis, &["task", "explain", &id, "--output", "json"])
        .json()
        .await;

    assert_eq!(
        (&waits["reason"], &waits["details"]["retry_count"]),
        (&json!("retry_wait"), &json!(1)),
        "{waits}"
    );
    assert_eq!(waits["details"]["error"]["message"], "out of paper");
    assert!(waits["summary"].as_str().unwrap().contains("retry 1 of 3"), "{waits}");
    check(&redis).await;
}

#[tokio::test]
async fn doctor_finds_and_mends_from_the_command_line() {
    let scene = Scene::start().await;
    let redis = &scene.redis;
    let good = Cli::on(redis, &["doctor", "--output", "json"]).json().await;
    let status = |document: &serde_json::Value, name: &str| {
        let checks = document["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {document}"))["status"].clone()
    };
    for name in [
        "version",
        "role",
        "eviction",
        "memory",
        "clock",
        "functions",
        "rights",
        "groups",
        "places",
        "counters",
    ] {
        assert_eq!(status(&good, name), "ok", "{good}");
    }
    assert_eq!(
        (status(&good, "persistence"), &good["ok"]),
        (json!("warn"), &json!(true))
    );

    let entry = scene.entry(scene.waiting).await;
    scene
        .write(&[
            format!("XDEL {P}queue:default:normal {entry}"),
            format!("HSET {P}meta p1 9"),
            format!("HSET {P}groups workflow 9 saga 4"),
            format!("SADD {P}can:r-00000002 work"),
            "XGROUP DESTROY waooaw:commands orchestrators".to_owned(),
            "XGROUP CREATECONSUMER waooaw:triggers orchestrators ghost".to_owned(),
        ])
        .await;
    let broken = Cli::on(redis, &["doctor", "--output", "json"])
        .run()
        .await
        .expect(1)
        .json();
    for (name, expected) in [
        ("places", "fail"),
        ("counters", "fail"),
        ("consumers", "warn"),
        ("groups", "fail"),
    ] {
        assert_eq!(status(&broken, name), expected, "{broken}");
    }
    Cli::on(redis, &["doctor", "--repair", "--output", "json"])
        .run()
        .await
        .refused(2, "Usage");
    let mended = Cli::on(redis, &["doctor", "--repair", "--yes", "--actor", "ann"])
        .run()
        .await
        .expect(0);
    assert!(
        mended.out.contains("1 tasks put back") && mended.out.contains("counters set right"),
        "{mended:?}"
    );
    let readers = redis.consumers("waooaw:triggers", "orchestrators").await;
    assert!(!readers.contains(&"ghost".to_owned()), "{readers:?}");
    for kind in ["workflow", "saga"] {
        let running: i64 = redis.ask(&["HGET", &format!("{P}groups"), kind]).await;
        assert_eq!(running, 0, "{kind}");
    }
    let events: Vec<_> = scene.redis.log().await.events;
    let told_of = events.iter().find(|event| event.kind == "operator.action").unwrap();
    assert_eq!((told_of.text("action"), told_of.text("actor")), ("repair", "ann"));
    let report = scene.verify().await;
    assert!(report.ok, "{}", told(&report.violations));
    // The task that was put back is served.
    let _replica = redis.replica().start().await;
    redis
        .ask::<i64>(&["SADD", &format!("{P}can:{}", scene.replica), "x"])
        .await;
    wait_for("what was put back is parked or runs", async || {
        let record = scene.store.task(scene.waiting).await.unwrap().unwrap();
        holds(record.entry_id.to_string() != entry, || format!("{record:?}"))
    })
    .await;
}

#[tokio::test]
async fn doctor_names_the_commands_that_the_user_lacks() {
    let scene = Scene::start().await;
    let rules = "ACL SETUSER poor on >secret ~* &* +@all -xtrim -hset -config -info";
    let () = scene.redis.ask(&rules.split(' ').collect::<Vec<_>>()).await;
    let url = scene.redis.url().replace("redis://", "redis://poor:secret@");

    let ran = Cli::new(&["doctor", "--output", "json"])
        .set("REDIS_URL", &url)
        .run()
        .await
        .expect(1);

    let document = ran.json();
    let rights = document["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "rights")
        .unwrap()
        .clone();
    assert_eq!(rights["status"], "fail");
    let message = rights["message"].as_str().unwrap();
    assert!(
        message.contains("HSET") && message.contains("XTRIM") && !message.contains("XADD"),
        "{message}"
    );
}

#[tokio::test]
async fn a_replica_refuses_a_redis_that_would_lose_tasks() {
    let redis = TestRedis::start().await;
    let () = redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;

    let mut replica = redis.replica().spawn();
    let status = replica.ended().await;
    let log = replica.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("allkeys-lru") && log.contains("CONFIG SET maxmemory-policy noeviction"),
        "{log}"
    );
    let sick = Cli::on(&redis, &["doctor", "--output", "json"])
        .run()
        .await
        .expect(1)
        .json();
    assert!(sick["checks"].to_string().contains("allkeys-lru"), "{sick}");
    let told = Cli::on(&redis, &["doctor"]).run().await.expect(1);
    assert_eq!(told.out.matches("noeviction").count(), 1, "{told:?}");

    let () = redis.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    let other = TestRedis::start().await;
    let port = other.url().rsplit(':').next().unwrap().to_owned();
    let () = redis.ask(&["REPLICAOF", "127.0.0.1", &port]).await;
    let mut replica = redis.replica().spawn();
    let status = replica.ended().await;
    assert!(
        status.code() == Some(1) && replica.log().contains("read-only replica"),
        "{}",
        replica.log()
    );

    let doctor = Cli::on(&redis, &["doctor", "--output", "json"])
        .run()
        .await
        .expect(1)
        .json();
    let failed: Vec<&serde_json::Value> = doctor["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["status"] == "fail")
        .map(|check| &check["name"])
        .collect();
    assert_eq!(failed, ["role"], "{doctor}");
    let () = redis.ask(&["REPLICAOF", "NO", "ONE"]).await;
    let loud = redis
        .replica()
        .set("WAOOAW_REDIS__ALLOW_NO_PERSISTENCE", "false")
        .start()
        .await;
    assert!(loud.log().contains("REDIS KEEPS NOTHING ON DISK"), "{}", loud.log());
    let meant = redis
        .replica()
        .set("WAOOAW_REDIS__ALLOW_NO_PERSISTENCE", "true")
        .start()
        .await;
    assert!(!meant.log().contains("REDIS KEEPS NOTHING"), "{}", meant.log());
    let snapshots = TestRedis::start().await;
    let () = snapshots.ask(&["CONFIG", "SET", "save", "3600 1"]).await;
    let replica = snapshots
        .replica()
        .set("WAOOAW_REDIS__ALLOW_NO_PERSISTENCE", "false")
        .start()
        .await;
    assert!(!replica.log().contains("REDIS KEEPS NOTHING"), "{}", replica.log());
    let sound = Cli::on(&snapshots, &["doctor", "--output", "json"]).json().await;
    assert!(sound["checks"].to_string().contains("snapshots only"), "{sound}");
    assert!(verify(&snapshots.store()).await.ok);
    assert!(
        sound["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|check| check["status"] != json!(Status::Fail))
    );
}
