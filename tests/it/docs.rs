//! What the README tells people to type does what it says.

use std::collections::BTreeSet;
use std::process::Stdio;

use redis::AsyncConnectionConfig;
use serde_json::json;

use crate::support::cli::Cli;
use crate::support::history::check_all_ended;
use crate::support::redis::TestRedis;
use crate::support::{PATIENCE, holds, wait_for};

const README: &str = include_str!("../../README.md");
const MAKEFILE: &str = include_str!("../../Makefile");

/// The commands in the blocks for a shell, each on one line.
fn commands(page: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut parts = page.split("\n```");
    while let (Some(_), Some(block)) = (parts.next(), parts.next()) {
        let Some((language, lines)) = block.split_once('\n') else {
            continue;
        };
        if !["sh", "console"].contains(&language) {
            continue;
        }
        for line in lines.replace("\\\n", " ").lines() {
            let (command, _comment) = line.split_once("  #").unwrap_or((line, ""));
            if !command.trim().is_empty() {
                commands.push(command.trim().to_owned());
            }
        }
    }
    commands
}

/// The words of a command of which some are in single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (place, part) in command.split('\'').enumerate() {
        if place % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Runs a line for `redis-cli` as it stands, or without that program by the library; answers what Redis said.
async fn redis_cli(redis: &TestRedis, line: &str) -> String {
    let url = redis.url();
    let port = url.rsplit(':').next().unwrap();
    let line = line.replace("-p PORT", &format!("-p {port}"));
    let program = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|folder| folder.join("redis-cli").is_file());
    if program {
        let mut shell = tokio::process::Command::new("sh");
        let shell = shell.args(["-c", &line]).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, shell.output())
            .await
            .expect(&line)
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        return String::from_utf8(output.stdout).unwrap();
    }
    let words = words(&line);
    let mut command = redis::cmd(&words[3]);
    command.arg(&words[4..]);
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let client = redis::Client::open(url).unwrap();
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap();
    let answer: redis::Value = command.query_async(&mut connection).await.expect(&line);
    format!("{answer:?}").replace('\\', "")
}

#[tokio::test]
async fn every_line_of_the_readme_for_a_shell_has_the_effect_that_it_states() {
    let redis = TestRedis::start().await;
    let _replica = redis.replica().start().await;
    let mut triggers = 0;

    for line in commands(README) {
        if let Some(target) = line.strip_prefix("make ") {
            assert!(MAKEFILE.contains(&format!("\n{target}:")), "{line}");
        } else if line.contains("waooaw serve") || line.contains("waooaw dev") {
            // They run until they are stopped; what they do is tested in places of their own.
            let words: Vec<&str> = line.split_whitespace().skip_while(|word| *word != "waooaw").collect();
            let words: Vec<&str> = words[1..].iter().copied().chain(["--help"]).collect();
            Cli::new(&words).run().await.expect(0);
        } else if line.contains("XADD waooaw:triggers") {
            redis_cli(&redis, &line).await;
            triggers += 1;
            let mut log = redis.log().await;
            log.until_count("task.completed", triggers).await;
            let last = log.events.last().unwrap();
            let kinds: Vec<&str> = log.of(&last.subject).iter().map(|event| event.kind.as_str()).collect();
            assert_eq!(kinds, ["task.created", "task.started", "task.completed"]);
            assert_eq!(last.payload["result"], 42);
        } else if line.contains("XREAD BLOCK") {
            let mut number = 0;
            let read = redis_cli(&redis, &line);
            // When it has begun to wait can not be seen from outside, so things go on happening until it has seen one.
            let publish = async {
                loop {
                    number += 1;
                    redis
                        .trigger(&format!("next-{number}"), &json!({ "task_name": "noop" }))
                        .await;
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
            };
            let said = tokio::select! { said = read => said, () = publish => String::new() };
            assert!(said.contains("orchestration.task."), "{line}: {said}");
            triggers += number;
        } else if line.contains("XREAD COUNT") {
            let said = redis_cli(&redis, &line).await;
            assert!(said.contains("\"result\":42"), "{line}: {said}");
        } else if line.contains("XGROUP CREATE") {
            redis_cli(&redis, &line).await;
        } else if line.contains("XREADGROUP") {
            let said = redis_cli(&redis, &line).await;
            assert!(said.contains("orchestration.worker_pool.status"), "{line}: {said}");
        } else {
            panic!("say here what is to be seen of it: {line}");
        }
    }
    assert!(triggers > 0, "the README publishes something");
    wait_for("all are completed", async || {
        let log = redis.log().await;
        holds(log.count("task.completed") == triggers, || log.summary())
    })
    .await;
    check_all_ended(&redis).await;
}

/// A saga that answers to the name that docs/sagas.md uses.
const SAGA: &str = "saga_id: order-4711\nsteps:\n  - {name: reserve, action: noop, compensation: noop}\n";

#[tokio::test]
async fn every_line_of_the_other_pages_for_a_shell_runs() {
    let redis = TestRedis::start_durable().await;
    let settings = redis.replica().set("WAOOAW_QUEUE__REFERENCE_WAIT", "1s");
    let _replica = settings.start().await;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut ran = 0;

    for page in std::fs::read_dir(folder).unwrap() {
        let page = page.unwrap();
        // Those of docs/http.md are tried, each with its outcome, in `http_docs`.
        if page.path().extension().is_none_or(|ending| ending != "md") || page.file_name() == "http.md" {
            continue;
        }
        for line in commands(&std::fs::read_to_string(page.path()).unwrap()) {
            let words = words(&line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words[0] {
                "redis-cli" => {
                    redis_cli(&redis, &line.replacen("redis-cli", "redis-cli -p PORT", 1)).await;
                }
                // What has ended can be neither cancelled nor resumed, and that is said.
                "waooaw" if words[1] == "saga" && ["cancel", "resume"].contains(&words[2]) => {
                    Cli::on(&redis, &words[1..]).run().await.expect(1);
                }
                "waooaw" => {
                    let cli = Cli::on(&redis, &words[1..]).file("order.yaml", SAGA);
                    cli.run().await.expect(0);
                }
                "df" => {
                    let mut shell = tokio::process::Command::new("sh");
                    let output = shell
                        .args(["-c", &line])
                        .env("REPORT_PATH", "/")
                        .output()
                        .await
                        .unwrap();
                    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&line);
                    assert!(report["free_kib"].is_u64(), "{report}");
                }
                // It runs until it is stopped; `acl` starts a replica as that user.
                _ if line.ends_with(" waooaw serve") => {
                    Cli::new(&["serve", "--help"]).run().await.expect(0);
                }
                _ => panic!("say here what is to be seen of it: {line}"),
            }
            ran += 1;
        }
    }

    assert!(ran > 12, "{ran}");
    wait_for("all that was asked for has an end", async || {
        let log = redis.log().await;
        let ended = log.count("workflow.completed") == 1 && log.count("command.refused") == 1;
        holds(ended, || log.summary())
    })
    .await;
    check_all_ended(&redis).await;
}

#[tokio::test]
async fn every_command_that_the_readme_names_exists() {
    let is_name = |word: &&str| !word.is_empty() && word.chars().all(|letter| letter.is_ascii_lowercase());
    let mut named = BTreeSet::new();
    for rest in README.split("waooaw ").skip(1) {
        let mut runs = rest.split(|letter: char| !letter.is_ascii_lowercase() && letter != ' ' && letter != '|');
        let mut words = runs.next().unwrap_or_default().split(' ');
        let Some(command) = words.next().filter(is_name) else {
            continue;
        };
        named.insert((command, None));
        for part in words.next().unwrap_or_default().split('|').filter(is_name) {
            named.insert((command, Some(part)));
        }
    }
    let help = Cli::new(&["--help"]).run().await.expect(0).out;
    let lists = |help: &str, word: &str| help.lines().any(|line| line.starts_with(&format!("  {word} ")));
    for (command, part) in &named {
        assert!(lists(&help, command), "waooaw {command}");
        let Some(part) = part else { continue };
        let help = Cli::new(&[command, "--help"]).run().await.expect(0).out;
        if help.contains("\nCommands:") {
            assert!(lists(&help, part), "waooaw {command} {part}");
        }
    }
    assert!(named.contains(&("task", Some("list"))) && named.len() > 8, "{named:?}");
}
