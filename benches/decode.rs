//! What one trigger costs a replica before it is a task: decoding the entry, checking every field.
//!
//! `cargo bench --bench decode`. Prints nanoseconds per trigger, the best of several rounds, since other work on the
//! machine only ever adds. The whole service is measured by `waooaw bench`.

#![allow(clippy::print_stdout, reason = "the numbers are what this program is for")]

use std::hint::black_box;
use std::time::Instant;

use waooaw_orchestration::domain::envelope::Envelope;
use waooaw_orchestration::domain::trigger::interpret;

const ROUNDS: usize = 7;
const TRIGGERS: u32 = 100_000;

fn main() {
    let small = r#"{"task_name":"noop","args":["0123456789012345678901234567890123456789"]}"#.to_owned();
    let full = concat!(
        r#"{"task_name":"charge","kwargs":{"customer":"c-77","amount":99.5},"priority":"HIGH","workflow_id":"order-7","#,
        r#""queue":"billing","key":"charge","timeout_seconds":30,"retry":{"max_retries":5,"initial_delay_seconds":0.5},"#,
        r#""tags":{"team":"sales"},"metadata":{"source":"web","items":[1,2,3]}}"#
    )
    .to_owned();
    let large = format!(r#"{{"task_name":"noop","args":["{}"]}}"#, "x".repeat(64 << 10));
    for (name, payload) in [
        ("small", small),
        ("every kind of field", full),
        ("64 KiB of arguments", large),
    ] {
        println!("{name:<20} {:>8.0} ns", best(&payload));
    }
}

/// The fewest nanoseconds that one trigger with this payload took, averaged over a round.
fn best(payload: &str) -> f64 {
    let fields: [(&[u8], &[u8]); 3] = [
        (b"event_type", b"orchestration.task.trigger"),
        (b"source_agent", b"sales"),
        (b"payload", payload.as_bytes()),
    ];
    let count = if payload.len() > 10_000 {
        TRIGGERS / 100
    } else {
        TRIGGERS
    };
    (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..count {
                let envelope = Envelope::decode("1795447172130-0", black_box(&fields)).ok();
                black_box(envelope.map(|envelope| interpret(&envelope).is_ok()));
            }
            began.elapsed().as_secs_f64() * 1e9 / f64::from(count)
        })
        .fold(f64::INFINITY, f64::min)
}
