//! Traces: sent by programs that were built with the feature `otlp`, refused by others.

use crate::support::redis::TestRedis;

#[cfg(not(feature = "otlp"))]
#[tokio::test]
async fn a_program_without_traces_says_so_instead_of_losing_them() {
    let redis = TestRedis::start().await;

    let refused = crate::support::cli::Cli::on(&redis, &["serve"])
        .set("WAOOAW_TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:4318")
        .set("PORT", &crate::support::redis::free_port().to_string())
        .run()
        .await;

    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("built without the feature `otlp`"), "{refused:?}");
}

#[cfg(feature = "otlp")]
mod sent {
    use std::collections::BTreeMap;
    use std::fmt::Write as _;
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::TestRedis;
    use crate::support::history::check_all_ended;
    use crate::support::redis::task_of;
    use crate::support::service::{Answer, Service};

    const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT_ID: &str = "b7ad6b7169203331";

    /// A span as it arrived.
    #[derive(Debug, Clone, Default)]
    struct Span {
        trace: String,
        id: String,
        parent: String,
        name: String,
        start_ns: u64,
        end_ns: u64,
        attributes: BTreeMap<String, String>,
        status: u64,
    }

    /// A field of a protobuf message.
    enum Field<'a> {
        Number(u64),
        Bytes(&'a [u8]),
    }

    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for place in 0.. {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    /// The fields of a message, by number.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    found.push((key >> 3, Field::Number(varint(&mut bytes))));
                    continue;
                }
                1 => 8,
                2 => usize::try_from(varint(&mut bytes)).unwrap(),
                5 => 4,
                other => panic!("wire type {other}"),
            };
            let (field, rest) = bytes.split_at(length);
            bytes = rest;
            let field = if key & 7 == 2 {
                Field::Bytes(field)
            } else {
                let mut whole = [0; 8];
                whole[..length].copy_from_slice(field);
                Field::Number(u64::from_le_bytes(whole))
            };
            found.push((key >> 3, field));
        }
        found
    }

    fn messages(bytes: &[u8], number: u64) -> Vec<&[u8]> {
        let of_number = fields(bytes).into_iter().filter(|(found, _)| *found == number);
        of_number
            .filter_map(|(_, field)| match field {
                Field::Bytes(bytes) => Some(bytes),
                Field::Number(_) => None,
            })
            .collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    fn attributes(message: &[u8], number: u64) -> BTreeMap<String, String> {
        let pairs = messages(message, number).into_iter().map(|pair| {
            let key = String::from_utf8(messages(pair, 1)[0].to_vec()).unwrap();
            let value = match fields(messages(pair, 2)[0]).into_iter().next() {
                Some((_, Field::Bytes(text))) => String::from_utf8(text.to_vec()).unwrap(),
                Some((_, Field::Number(number))) => number.to_string(),
                None => String::new(),
            };
            (key, value)
        });
        pairs.collect()
    }

    fn span(message: &[u8]) -> Span {
        let mut span = Span {
            attributes: attributes(message, 9),
            ..Span::default()
        };
        for (number, field) in fields(message) {
            match (number, field) {
                (1, Field::Bytes(bytes)) => span.trace = hex(bytes),
                (2, Field::Bytes(bytes)) => span.id = hex(bytes),
                (4, Field::Bytes(bytes)) => span.parent = hex(bytes),
                (5, Field::Bytes(bytes)) => span.name = String::from_utf8(bytes.to_vec()).unwrap(),
                (7, Field::Number(ns)) => span.start_ns = ns,
                (8, Field::Number(ns)) => span.end_ns = ns,
                (15, Field::Bytes(status)) => {
                    for (number, field) in fields(status) {
                        if let (3, Field::Number(code)) = (number, field) {
                            span.status = code;
                        }
                    }
                }
                _ => {}
            }
        }
        span
    }

    /// A collector on a port of its own, that keeps what it is sent.
    struct Collector {
        port: u16,
        seen: Arc<Mutex<Vec<Span>>>,
        resource: Arc<Mutex<BTreeMap<String, String>>>,
    }

    impl Collector {
        async fn start() -> Self {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (seen, resource) = (Arc::<Mutex<Vec<Span>>>::default(), Arc::default());
            let (spans, of_whom) = (Arc::clone(&seen), Arc::clone(&resource));
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(stream, Arc::clone(&spans), Arc::clone(&of_whom)));
                }
            });
            Self { port, seen, resource }
        }

        fn spans(&self, name: &str) -> Vec<Span> {
            let seen = self.seen.lock().unwrap();
            let mut named: Vec<Span> = seen.iter().filter(|span| span.name == name).cloned().collect();
            named.sort_by_key(|span| span.start_ns);
            named
        }
    }

    async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Span>>>, resource: Arc<Mutex<BTreeMap<String, String>>>) {
        let mut buffer = Vec::new();
        while let Some((head, body)) = request(&mut stream, &mut buffer).await {
            assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
            assert!(
                head.to_lowercase().contains("content-type: application/x-protobuf"),
                "{head}"
            );
            for of_resource in messages(&body, 1) {
                for found in messages(of_resource, 1) {
                    resource.lock().unwrap().extend(attributes(found, 1));
                }
                for scope in messages(of_resource, 2) {
                    seen.lock().unwrap().extend(messages(scope, 2).into_iter().map(span));
                }
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    /// The next request of a connection: its head and its body.
    async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
        loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
                let length = head.to_lowercase();
                let length = length.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
                if buffer.len() >= end + 4 + length {
                    let body = buffer[end + 4..end + 4 + length].to_vec();
                    buffer.drain(..end + 4 + length);
                    return Some((head, body));
                }
            }
            if stream.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    #[tokio::test]
    async fn a_trigger_can_be_followed_to_its_result() {
        let redis = TestRedis::start().await;
        let collector = Collector::start().await;
        let service = Service::start(|_, number| Answer::new(if number == 0 { 500 } else { 200 }, "8")).await;
        let config = format!(
            "[telemetry]\notlp_endpoint = \"http://127.0.0.1:{}/\"\n[handlers.bill]\nkind = \"http\"\nurl = \"{}\"\n",
            collector.port,
            service.url("/bill")
        );
        let mut replica = redis.replica().config(&config).start().await;
        let traceparent = format!("00-{TRACE_ID}-{PARENT_ID}-01");
        let payload = r#"{"task_name":"bill","retry":{"initial_delay_seconds":0}}"#;
        redis
            .add(
                "waooaw:triggers",
                &[
                    (b"event_type", b"orchestration.task.trigger"),
                    (b"source_agent", b"tester"),
                    (b"event_id", b"e"),
                    (b"traceparent", traceparent.as_bytes()),
                    (b"payload", payload.as_bytes()),
                ],
            )
            .await;
        redis.trigger("untraced", &json!({ "task_name": "noop" })).await;
        let mut log = redis.log().await;
        log.until_count("task.completed", 2).await;
        // What is not sent yet is sent before the process ends.
        assert!(replica.stop().await.success());

        let ingests = collector.spans("ingest");
        let ingest = ingests.iter().find(|span| span.trace == TRACE_ID).unwrap();
        assert_eq!(ingest.parent, PARENT_ID);
        assert_eq!(ingest.attributes["waooaw.id"], task_of("e").to_string());
        assert!(ingest.end_ns >= ingest.start_ns);
        let attempts = collector.spans("attempt bill");
        let told: Vec<_> = attempts
            .iter()
            .map(|span| {
                let (number, outcome) = (&span.attributes["waooaw.attempt"], &span.attributes["waooaw.outcome"]);
                (&*span.trace, &*span.parent, &**number, &**outcome, span.status)
            })
            .collect();
        assert_eq!(
            told,
            [
                (TRACE_ID, PARENT_ID, "1", "failed", 2),
                (TRACE_ID, PARENT_ID, "2", "completed", 0)
            ]
        );
        // What the handler called goes on from the attempt, and so does the way of the result.
        let handed: Vec<String> = service
            .requests()
            .iter()
            .map(|request| request.headers["traceparent"].clone())
            .collect();
        let of_attempts: Vec<String> = attempts
            .iter()
            .map(|span| format!("00-{TRACE_ID}-{}-01", span.id))
            .collect();
        assert_eq!(handed, of_attempts);
        for (attempt, answer) in attempts.iter().zip(["retry", "ok"]) {
            let results = collector.spans("result");
            let result = results.iter().find(|span| span.parent == attempt.id).unwrap();
            assert_eq!(
                (&*result.trace, &*result.attributes["waooaw.answer"]),
                (TRACE_ID, answer)
            );
        }
        for event in log.of(&task_of("e").to_string()) {
            assert_eq!(event.fields["traceparent"], traceparent, "{event:?}");
        }

        // What nobody traces has a trace of its own.
        let noop = &collector.spans("attempt noop")[0];
        let ingest = ingests.iter().find(|span| span.trace != TRACE_ID).unwrap();
        assert_eq!((&noop.trace, &*noop.parent, &*ingest.parent), (&ingest.trace, "", ""));
        assert_eq!(
            collector.resource.lock().unwrap()["service.name"],
            "waooaw-orchestration"
        );
        check_all_ended(&redis).await;
    }

    #[tokio::test]
    async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
        let redis = TestRedis::start().await;
        let nobody = crate::support::redis::free_port();
        let settings = redis
            .replica()
            .set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://127.0.0.1:{nobody}"));
        let mut replica = settings.start().await;

        redis.trigger("e", &json!({ "task_name": "noop" })).await;
        redis.log().await.until_task(task_of("e"), "task.completed").await;

        assert!(replica.stop().await.success());
        check_all_ended(&redis).await;
    }
}
