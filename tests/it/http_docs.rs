//! The commands of `docs/http.md` do what stands there, and it has one for every route.

use std::time::Duration;

use serde_json::Value;

use crate::support::history::check;
use crate::support::http::{Stream, request};
use crate::support::redis::TestRedis;
use crate::support::replica::ReplicaProcess;
use crate::support::wait_for;

const HTTP: &str = include_str!("../../docs/http.md");

/// A command, and the status that its comment tells; 0 for any that is good.
struct Command {
    words: Vec<String>,
    status: u16,
}

/// The commands of the blocks for a shell. One may go on over lines within quotes.
fn commands() -> Vec<Command> {
    let mut commands = Vec::new();
    for block in HTTP.split("\n```sh\n").skip(1) {
        let block = block.split("\n```").next().unwrap();
        let (mut words, mut word, mut is_quoted, mut has_word) = (Vec::new(), String::new(), false, false);
        let mut letters = format!("{block}\n").chars().collect::<Vec<_>>().into_iter().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '\'' => (is_quoted, has_word) = (!is_quoted, true),
                _ if is_quoted => word.push(letter),
                ' ' | '\n' | '#' if letter != '#' || !has_word => {
                    if has_word {
                        words.push(std::mem::take(&mut word));
                        has_word = false;
                    }
                    if letter == '#' {
                        let comment: String = letters.by_ref().take_while(|letter| *letter != '\n').collect();
                        let status = comment.trim().parse().expect("a comment is a status");
                        commands.push(Command {
                            words: std::mem::take(&mut words),
                            status,
                        });
                    } else if letter == '\n' && !words.is_empty() {
                        commands.push(Command {
                            words: std::mem::take(&mut words),
                            status: 0,
                        });
                    }
                }
                _ => {
                    word.push(letter);
                    has_word = true;
                }
            }
        }
    }
    commands
}

/// What curl would send: method, path, headers, body.
fn as_request(words: &[String]) -> (String, String, Vec<(String, String)>, Option<String>) {
    let (mut method, mut path, mut headers, mut body) = (None, None, Vec::new(), None);
    let mut words = words.iter();
    assert_eq!(words.next().map(String::as_str), Some("curl"));
    while let Some(word) = words.next() {
        match word.as_str() {
            "-s" | "-sN" => {}
            "-X" => method = words.next().cloned(),
            "-H" => {
                let (name, value) = words.next().unwrap().split_once(": ").unwrap();
                headers.push((name.to_owned(), value.to_owned()));
            }
            "-d" => body = words.next().map(|body| body.replace('\n', "")),
            url => path = Some(url.strip_prefix("localhost:8001").expect(url).to_owned()),
        }
    }
    let method = method.unwrap_or_else(|| if body.is_some() { "POST" } else { "GET" }.to_owned());
    (method, path.unwrap(), headers, body)
}

/// Waits until nothing waits any more and nothing changes.
async fn until_quiet(replica: &ReplicaProcess) {
    let mut before = Value::Null;
    wait_for("it is quiet", async || {
        let (_, mut now) = replica.get("/v1/stats").await.ok_or("no answer")?;
        if let Some(fields) = now.as_object_mut() {
            fields.remove("throughput_per_minute");
            fields.remove("worker_pool");
        }
        let is_quiet = now["pending_count"] == 0 && now == before;
        before = now.clone();
        tokio::time::sleep(Duration::from_millis(30)).await;
        if is_quiet { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn every_command_of_the_http_page_has_the_outcome_that_it_tells() {
    let redis = TestRedis::start().await;
    let replica = redis.replica().start().await;
    let name = replica.id().await;
    let commands = commands();
    assert!(commands.len() > 35, "{}", commands.len());

    for command in &commands {
        let (method, path, headers, body) = as_request(&command.words);
        let path = path.replace("r-3d7fqneb", &name);
        let about = format!("{method} {path} {body:?}");
        if headers.iter().any(|(_, value)| value == "text/event-stream") {
            let mut stream = Stream::open(replica.http_port(), &path, "Last-Event-ID: 0\r\n").await;
            stream.until("\ndata: {").await;
            continue;
        }
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let answer = request(replica.http_port(), &method, &path, &headers, body.as_deref()).await;
        match command.status {
            0 => assert!((200..300).contains(&answer.status), "{about}: {answer:?}"),
            status => assert_eq!(answer.status, status, "{about}: {answer:?}"),
        }
        if answer.status >= 400 {
            assert!(!answer.json()["detail"].as_str().unwrap().is_empty(), "{about}");
        }
        until_quiet(&replica).await;
    }
    check(&redis).await;
}

#[test]
fn every_route_has_a_command_on_the_http_page() {
    let asked: Vec<(String, String)> = commands()
        .iter()
        .map(|command| {
            let (method, path, ..) = as_request(&command.words);
            (method, path.split('?').next().unwrap().to_owned())
        })
        .collect();
    let document = waooaw_orchestration::service::openapi();
    for (template, operations) in document["paths"].as_object().unwrap() {
        let fits = |path: &str| {
            let (parts, known): (Vec<&str>, Vec<&str>) = (path.split('/').collect(), template.split('/').collect());
            parts.len() == known.len()
                && parts
                    .iter()
                    .zip(known)
                    .all(|(part, known)| known.starts_with('{') || *part == known)
        };
        for verb in operations.as_object().unwrap().keys() {
            assert!(
                asked
                    .iter()
                    .any(|(method, path)| method.eq_ignore_ascii_case(verb) && fits(path)),
                "docs/http.md has no command for {verb} {template}"
            );
        }
    }
}

#[test]
fn every_reason_that_explain_gives_stands_on_the_audit_page() {
    const AUDIT: &str = include_str!("../../docs/audit.md");
    let document = waooaw_orchestration::service::openapi();
    for reason in document["components"]["schemas"]["Why"]["enum"].as_array().unwrap() {
        let reason = reason.as_str().unwrap();
        assert!(AUDIT.contains(&format!("\n| `{reason}` |")), "{reason}");
    }
}

#[test]
fn every_code_stands_on_the_http_page() {
    let document = waooaw_orchestration::service::openapi();
    let text = document.to_string();
    for code in text.split("\"enum\":[").filter_map(|rest| rest.split(']').next()) {
        for code in code.split(',').map(|code| code.trim_matches('"')) {
            let is_code = code.starts_with(|letter: char| letter.is_ascii_uppercase())
                && code.contains(|letter: char| letter.is_ascii_lowercase());
            assert!(!is_code || HTTP.contains(&format!("`{code}`")), "{code}");
        }
    }
}
