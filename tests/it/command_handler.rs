//! Tasks that a program carries out: what it is told, what its end means, and that nothing of it is left.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::history::check_all_ended;
use crate::support::log::{Log, LogEvent};
use crate::support::redis::{TestRedis, free_port, task_of};
use crate::support::{holds, wait_for};

/// A handler that is a script for `sh`.
fn script(name: &str, script: &str) -> String {
    format!("[handlers.{name}]\nkind = \"command\"\nargv = [\"sh\", \"-c\", '''{script}''']\n")
}

const QUICK: &str = "[retry]\ndefault = { max_retries = 1, initial_delay_seconds = 0.1 }\n";

/// Whether a process is there and has not ended.
fn is_alive(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The state stands behind the name, which is in brackets.
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits until a script has written so many process ids into a file.
async fn processes(file: &Path, count: usize) -> Vec<u32> {
    wait_for("the script has begun", async || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let found: Vec<u32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        if found.len() >= count { Ok(found) } else { Err(text) }
    })
    .await
}

async fn until_gone(processes: &[u32]) {
    wait_for("the processes are gone", async || {
        let left: Vec<_> = processes.iter().filter(|process| is_alive(**process)).collect();
        holds(left.is_empty(), || format!("{left:?}"))
    })
    .await;
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("processes");
    (folder, file)
}

fn ending(log: &Log<'_>, event_id: &str) -> LogEvent {
    let subject = task_of(event_id).to_string();
    let mut events = log
        .events
        .iter()
        .filter(|event| event.subject == subject && event.is_terminal());
    events
        .next()
        .unwrap_or_else(|| panic!("{event_id}: {}", log.summary()))
        .clone()
}

#[tokio::test]
async fn a_program_is_told_its_task_on_standard_input_and_sees_a_small_environment() {
    let redis = TestRedis::start().await;
    let config = script("told", "cat")
        + "timeout_seconds = 60\n"
        + &script("sees", "env | sed 's/=.*//' | sort | tr '\\n' ' ' | sed 's/.*/\"&\"/'")
        + "env = { REPORT_TOKEN = \"hunter2hunter2\" }\n"
        + &script(
            "knows",
            "printf '\"%s %s %s\"' $WAOOAW_TASK_NAME $WAOOAW_ATTEMPT $WAOOAW_TASK_ID",
        )
        + &script(
            "leads",
            "read pid name state parent group rest < /proc/self/stat; [ $group = $$ ] && echo true",
        )
        + &script("leaks", "echo $REPORT_TOKEN >&2; exit 65")
        + "env = { REPORT_TOKEN = \"hunter2hunter2\" }\n";
    let _replica = redis
        .replica()
        .set("HOME", "/nowhere")
        .set("AWS_SECRET_ACCESS_KEY", "hunter3")
        .set("LD_PRELOAD", "")
        .config(&config)
        .start()
        .await;
    let trigger =
        r#"{"task_name":"told","args":[12345678901234567890123],"kwargs":{"b":1,"a":"é\n"},"workflow_id":null}"#;
    let fields = crate::support::redis::trigger_fields("told", trigger);

    redis.add("waooaw:triggers", &fields).await;
    for name in ["sees", "knows", "leads", "leaks"] {
        redis.trigger(name, &json!({ "task_name": name })).await;
    }
    let mut log = redis.log().await;
    log.until_count("task.completed", 4).await;
    log.until_count("task.failed", 1).await;

    let told = ending(&log, "told");
    let id = told.text("task_id");
    let expected = format!(
        "\"result\":{{\"task_id\":\"{id}\",\"attempt\":1,\"name\":\"told\",\"args\":[12345678901234567890123],\
         \"kwargs\":{{\"b\":1,\"a\":\"é\\n\"}},\"inputs\":{{}},\"workflow_id\":null,\"metadata\":{{}},\"deadline\":\"20"
    );
    assert!(
        told.fields["payload"].contains(&expected),
        "{}\n{expected}",
        told.fields["payload"]
    );
    let seen = ending(&log, "sees").payload["result"].clone();
    let seen: Vec<&str> = seen.as_str().unwrap().split_whitespace().collect();
    for name in [
        "PATH",
        "HOME",
        "WAOOAW_TASK_ID",
        "WAOOAW_TASK_NAME",
        "WAOOAW_ATTEMPT",
        "REPORT_TOKEN",
    ] {
        assert!(seen.contains(&name), "{name}: {seen:?}");
    }
    // The last three are the shell's own.
    let known = "HOME LANG LC_ALL LC_CTYPE PATH REPORT_TOKEN TMPDIR TZ WAOOAW_ATTEMPT WAOOAW_TASK_ID WAOOAW_TASK_NAME \
                 OLDPWD PWD SHLVL _";
    let foreign: Vec<_> = seen
        .iter()
        .filter(|name| !known.split(' ').any(|known| known == **name))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let id = task_of("knows");
    assert_eq!(ending(&log, "knows").payload["result"], format!("knows 1 {id}"));
    assert_eq!(ending(&log, "leads").payload["result"], true);
    assert_eq!(ending(&log, "leaks").payload["error"]["message"], "exit code 65: ***");
    check_all_ended(&redis).await;
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one table of scripts")]
async fn each_way_to_end_completes_the_task_or_ends_it_or_brings_it_back() {
    let redis = TestRedis::start().await;
    let scripts = [
        ("nothing", "exit 0"),
        ("json", "echo '{\"a\": 12345678901234567890123 }'"),
        ("prose", "echo it worked; echo careful >&2"),
        ("wrong", "echo 'row 7 is wrong' >&2; exit 65"),
        (
            "tail",
            "i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done; printf '\\377\\033[31mend' >&2; exit 65",
        ),
        ("crash", "echo oops >&2; exit 3"),
        ("killed", "kill -KILL $$"),
        ("overflow", "f() { f; }; f"),
        ("hog", "ulimit -v 60000; x=$(yes | head -c 200000000); echo 1"),
        ("endless", "exec yes"),
        ("deaf", "exec <&-; sleep 0.2; echo 1"),
        ("mute", "exec >&- 2>&-; sleep 0.3; exit 0"),
    ];
    let mut config = QUICK.to_owned();
    for (name, text) in scripts {
        config += &script(name, text);
    }
    config += "[handlers.absent]\nkind = \"command\"\nargv = [\"no-such-program\"]\n";
    config += "[handlers.folder]\nkind = \"command\"\nargv = [\"/\"]\n";
    let replica = redis.replica().workers(4).config(&config).start().await;
    let names: Vec<&str> = scripts
        .iter()
        .map(|(name, _)| *name)
        .chain(["absent", "folder"])
        .collect();

    let big = "x".repeat(900_000);
    redis
        .trigger_all(names.iter().map(|name| {
            let args: &[&str] = if ["deaf", "nothing", "crash"].contains(name) {
                &[&big]
            } else {
                &[]
            };
            ((*name).to_owned(), json!({ "task_name": name, "args": args }))
        }))
        .await;
    let mut log = redis.log().await;
    log.until("all have ended", |log| {
        (log.events.iter().filter(|event| event.is_terminal()).count() == names.len()).then_some(())
    })
    .await;

    for (name, result) in [("nothing", Value::Null), ("deaf", json!(1)), ("mute", Value::Null)] {
        let end = ending(&log, name);
        assert_eq!(
            (end.kind.as_str(), &end.payload["result"]),
            ("task.completed", &result),
            "{name}: {end:?}"
        );
    }
    assert!(ending(&log, "json").fields["payload"].contains("\"result\":{\"a\": 12345678901234567890123 },"));
    let error = |name: &str| {
        let end = ending(&log, name);
        assert_eq!(end.kind, "task.failed", "{name}");
        let error = &end.payload["error"];
        let message = error["message"].as_str().unwrap().to_owned();
        (
            end.payload["attempts"].as_u64().unwrap(),
            error["type"].as_str().unwrap().to_owned(),
            message,
        )
    };
    for (name, attempts, kind, message) in [
        (
            "prose",
            1,
            "invalid_result",
            "standard output is no JSON (expected value at line 1 column 1): careful",
        ),
        ("wrong", 1, "handler_error", "exit code 65: row 7 is wrong"),
        ("crash", 2, "handler_error", "exit code 3: oops"),
        ("killed", 2, "handler_error", "killed by signal 9 (SIGKILL)"),
        (
            "endless",
            1,
            "result_too_large",
            "the program wrote more than 1048576 bytes to standard output",
        ),
        (
            "absent",
            2,
            "unreachable",
            "can not start `no-such-program`: No such file or directory (os error 2)",
        ),
        (
            "folder",
            2,
            "unreachable",
            "can not start `/`: Permission denied (os error 13)",
        ),
    ] {
        assert_eq!(error(name), (attempts, kind.to_owned(), message.to_owned()), "{name}");
    }
    // How a shell without stack or memory ends is its own affair; that the attempt failed and the replica did not, is ours.
    assert_eq!(error("overflow").0, 2);
    assert_eq!(error("hog").0, 2);
    let tail = error("tail").2;
    assert!(
        tail.starts_with("exit code 65: …") && tail.contains("line 2999\n"),
        "{tail}"
    );
    assert!(
        tail.ends_with("\u{fffd}[31mend") && tail.len() > 4000 && tail.len() < 8 << 10,
        "{}",
        tail.len()
    );
    assert!(!replica.log().contains("panicked"));
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_program_out_of_time_is_gone_with_all_that_it_started_after_five_seconds() {
    let redis = TestRedis::start().await;
    let (_folder, file) = folder();
    let file_text = file.display();
    let config = QUICK.to_owned()
        + &script(
            "stubborn",
            &format!(
                "trap '' TERM; (trap '' TERM; sleep 70; sleep 70) & echo $! >> {file_text}; echo $$ >> {file_text}; sleep 71; sleep 71"
            ),
        );
    let _replica = redis.replica().config(&config).start().await;

    let payload = json!({ "task_name": "stubborn", "timeout_seconds": 1, "max_retries": 0 });
    redis.trigger("one", &payload).await;
    let found = processes(&file, 2).await;
    let mut log = redis.log().await;
    log.until_task(task_of("one"), "task.timeout").await;
    let expired = Instant::now();
    assert!(found.iter().all(|process| is_alive(*process)));
    until_gone(&found).await;

    let took = expired.elapsed();
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(9)).contains(&took),
        "{took:?}"
    );
    assert_eq!(naming(&file), 0);
    check_all_ended(&redis).await;
}

/// How many processes name the file in their command line: whatever the test's script started is among them.
fn naming(file: &Path) -> usize {
    let text = file.display().to_string();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        })
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(&text))
        .count()
}

#[tokio::test]
async fn a_cancelled_program_may_clean_up_and_one_that_ends_takes_its_children_along() {
    let redis = TestRedis::start().await;
    let (folder, file) = folder();
    let bye = folder.path().join("bye");
    let config = script(
        "polite",
        &format!(
            "trap 'echo bye > {}; exit 1' TERM; echo $$ >> {}; while :; do sleep 0.1; done",
            bye.display(),
            file.display()
        ),
    ) + &script(
        "parent",
        &format!(
            "sleep 72 & echo $! >> {}; echo '\"done\"'",
            folder.path().join("child").display()
        ),
    );
    let settings = redis.replica().config(&config);
    let _replicas = settings.start_many(2).await;
    let mut log = redis.log().await;

    redis.trigger("polite", &json!({ "task_name": "polite" })).await;
    let found = processes(&file, 1).await;
    redis.cancel("stop", task_of("polite")).await;
    log.until_task(task_of("polite"), "task.cancelled").await;
    let cancelled = Instant::now();
    until_gone(&found).await;
    assert!(
        cancelled.elapsed() < Duration::from_secs(4),
        "{:?}",
        cancelled.elapsed()
    );
    assert_eq!(std::fs::read_to_string(&bye).unwrap(), "bye\n");

    // The child holds standard output open; nobody waits for it.
    redis.trigger("parent", &json!({ "task_name": "parent" })).await;
    let done = log.until_task(task_of("parent"), "task.completed").await;
    assert_eq!(done.payload["result"], "done");
    assert!(done.payload["duration_ms"].as_i64().unwrap() < 5000);
    let child = processes(&folder.path().join("child"), 1).await;
    until_gone(&child).await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_replica_that_stops_leaves_no_program_behind() {
    let redis = TestRedis::start().await;
    let (_folder, file) = folder();
    let config = script(
        "long",
        &format!(
            "trap '' TERM; echo $$ >> {}; sleep 73; sleep 73; echo 1",
            file.display()
        ),
    );
    let mut replica = redis
        .replica()
        .set("WAOOAW_SHUTDOWN__GRACE", "500ms")
        .config(&config)
        .start()
        .await;
    redis
        .trigger("long", &json!({ "task_name": "long", "timeout_seconds": 300 }))
        .await;
    let found = processes(&file, 1).await;

    assert!(replica.stop().await.success());

    assert!(found.iter().all(|process| !is_alive(*process)));
    let log = redis.log().await;
    assert_eq!(log.life(task_of("long")).join(" "), "created started released");
    crate::support::history::check(&redis).await;
}

#[tokio::test]
async fn a_second_signal_ends_a_replica_at_once_and_its_programs_with_it() {
    let redis = TestRedis::start().await;
    let (_folder, file) = folder();
    let config = script(
        "stubborn",
        &format!(
            "trap '' TERM; echo $$ >> {0}; sleep 600 & echo $! >> {0}; wait",
            file.display()
        ),
    );
    let mut replica = redis.replica().config(&config).start().await;
    redis.trigger("e", &json!({ "task_name": "stubborn" })).await;
    let started = processes(&file, 2).await;

    replica.signal("TERM");
    wait_for("it drains", async || {
        holds(replica.log().contains("draining"), || replica.log())
    })
    .await;
    assert!(replica.is_alive());
    replica.signal("TERM");
    let asked = Instant::now();
    assert_eq!(replica.ended().await.code(), Some(130));

    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    until_gone(&started).await;
    let _next = redis.replica().config(&script("stubborn", "echo 1")).start().await;
    redis.log().await.until_task(task_of("e"), "task.completed").await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn a_replica_that_was_taken_for_dead_ends_its_programs() {
    let redis = TestRedis::start().await;
    let (_folder, file) = folder();
    let config = script(
        "long",
        &format!(
            "echo $$ >> {}; [ $WAOOAW_ATTEMPT = 2 ] || sleep 74; echo 1",
            file.display()
        ),
    );
    let settings = redis.replica().workers(1).config(&config);
    let frozen = settings.start().await;
    redis.trigger("long", &json!({ "task_name": "long" })).await;
    let found = processes(&file, 1).await;

    frozen.signal("STOP");
    let _other = settings.start().await;
    let mut log = redis.log().await;
    log.until_task(task_of("long"), "task.completed").await;
    assert!(is_alive(found[0]));
    frozen.signal("CONT");
    until_gone(&found).await;

    assert_eq!(
        log.life(task_of("long")).join(" "),
        "created started retry_scheduled started completed"
    );
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn the_examples_do_what_they_say() {
    let redis = TestRedis::start().await;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/handlers");
    let port = free_port();
    let config = include_str!("../../examples/handlers/handlers.toml")
        .replace("examples/handlers", &examples.display().to_string())
        .replace(":9000", &format!(":{port}"));
    let _replica = redis.replica().config(&config).start().await;
    let mut log = redis.log().await;

    redis.trigger("disk", &json!({ "task_name": "disk_report" })).await;
    let report = log.until_task(task_of("disk"), "task.completed").await;
    assert_eq!(report.payload["result"]["attempt"], 1);
    assert!(report.payload["result"]["free_kib"].is_u64(), "{report:?}");

    let service = tokio::process::Command::new("python3")
        .arg(examples.join("service.py"))
        .arg(port.to_string())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn();
    // The other half needs Python.
    if let Ok(_service) = service {
        wait_for("the service listens", async || {
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            holds(connected.is_ok(), || format!("{connected:?}"))
        })
        .await;
        let quote = |items: Value| json!({ "task_name": "quote", "kwargs": { "items": items } });
        redis.trigger("order", &quote(json!([19.9, 5.1]))).await;
        redis.trigger("empty", &quote(json!([]))).await;
        let done = log.until_task(task_of("order"), "task.completed").await;
        assert_eq!(done.payload["result"], json!({ "total": 25.0, "attempt": 1 }));
        let failed = log.until_task(task_of("empty"), "task.failed").await;
        assert_eq!(
            failed.payload["error"]["message"],
            "the service answered 422 Unprocessable Entity: {\"problem\": \"an order needs items\"}"
        );
    }
    check_all_ended(&redis).await;
}
