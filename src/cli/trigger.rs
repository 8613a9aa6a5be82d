//! `waooaw trigger`: makes a task at once, and answers whether it was made.

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use super::context::Context;
use super::exit::Failure;
use super::{output, task};
use crate::domain::rejection::{Reason, Rejection};
use crate::error::Error;
use crate::runtime::defaults::{Defaults, Origin};
use crate::runtime::request;
use crate::service::wiring;

pub(super) const EXAMPLES: &str = "\
Examples:
  waooaw trigger echo --args '[\"hi\"]' --wait
  waooaw trigger report --kwargs '{\"month\":\"2026-01\"}' --priority high --workflow-id billing-7
  waooaw trigger sync --event-id nightly-2026-01-31 --delay 3600 --retry '{\"max_retries\":5}'";

/// Who the tasks of the command line come from. With the event's id it names the task.
const SOURCE_AGENT: &str = "cli";

/// What `trigger` takes.
#[derive(Debug, Args)]
pub(crate) struct TriggerArgs {
    /// What to run
    task_name: String,
    /// Positional arguments, a JSON list
    #[arg(long, value_name = "JSON")]
    args: Option<String>,
    /// Named arguments, a JSON object
    #[arg(long, value_name = "JSON")]
    kwargs: Option<String>,
    /// HIGH, NORMAL, LOW or BACKGROUND
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<String>,
    /// Your own id of the request: the same one makes the task once
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
    /// The workflow that it belongs to
    #[arg(long, value_name = "WORKFLOW")]
    workflow_id: Option<String>,
    /// The longest that one attempt may take
    #[arg(long, value_name = "SECONDS", value_parser = number, allow_hyphen_values = true)]
    timeout: Option<Box<RawValue>>,
    /// AGGRESSIVE, STANDARD, CONSERVATIVE or QUICK, or a policy as a JSON object
    #[arg(long, value_name = "POLICY")]
    retry: Option<String>,
    /// The queue that it waits in
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Your own name for it within its workflow
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// How long it waits before it may start
    #[arg(long, value_name = "SECONDS", value_parser = number, allow_hyphen_values = true)]
    delay: Option<Box<RawValue>>,
    /// Extra attempts after the first, over the policy's own number
    #[arg(long, value_name = "N", value_parser = number, allow_hyphen_values = true)]
    max_retries: Option<Box<RawValue>>,
    /// Wait until it has ended, at most so many seconds, and print it
    #[arg(long, value_name = "SECONDS", value_parser = task::seconds)]
    #[allow(clippy::option_option, reason = "how clap spells a flag whose value may be left out")]
    wait: Option<Option<f64>>,
}

/// A number as it stands; what it may be is decided with the rest of the payload.
fn number(text: &str) -> Result<Box<RawValue>, String> {
    serde_json::from_str::<serde_json::Number>(text)
        .map_err(|_| "expected a number".to_owned())
        .and_then(|_| RawValue::from_string(text.trim().to_owned()).map_err(|error| error.to_string()))
}

impl TriggerArgs {
    /// The payload of the trigger. What is JSON already stays byte for byte.
    fn payload(&self) -> Result<String, Error> {
        let mut members = vec![format!("\"task_name\":{}", quoted(&self.task_name))];
        let mut add = |field: &str, json: &str| members.push(format!("\"{field}\":{json}"));
        for (field, json) in [("args", &self.args), ("kwargs", &self.kwargs)] {
            if let Some(json) = json {
                add(field, verbatim(field, json)?);
            }
        }
        for (field, text) in [
            ("priority", &self.priority),
            ("workflow_id", &self.workflow_id),
            ("queue", &self.queue),
            ("key", &self.key),
        ] {
            if let Some(text) = text {
                add(field, &quoted(text));
            }
        }
        for (field, number) in [
            ("timeout_seconds", &self.timeout),
            ("delay_seconds", &self.delay),
            ("max_retries", &self.max_retries),
        ] {
            if let Some(number) = number {
                add(field, number.get());
            }
        }
        if let Some(policy) = &self.retry {
            add("retry", &policy_json(policy)?);
        }
        Ok(format!("{{{}}}", members.join(",")))
    }
}

/// A policy as JSON: an object as it stands, or the name of a preset.
pub(super) fn policy_json(text: &str) -> Result<String, Error> {
    let text = text.trim();
    if text.starts_with('{') {
        return verbatim("retry", text).map(str::to_owned);
    }
    Ok(quoted(text))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// JSON from the command line, which must be whole: what it is put into must not read differently through it.
fn verbatim<'a>(field: &str, json: &'a str) -> Result<&'a str, Error> {
    match serde_json::from_str::<&RawValue>(json) {
        Ok(value) => Ok(value.get()),
        Err(error) => {
            let message = format!("is not JSON: {error}");
            Err(Error::InvalidField(Rejection::new(
                Reason::Malformed,
                Some(field),
                message,
            )))
        }
    }
}

/// What became of the request.
#[derive(Serialize)]
struct Answer {
    task_id: String,
    event_id: String,
    /// `false` when the same request had made the task before.
    created: bool,
}

/// Makes the task.
pub(super) async fn run(context: &Context, args: TriggerArgs) -> Result<(), Failure> {
    let event_id = args
        .event_id
        .clone()
        .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let trigger = request::read_trigger(SOURCE_AGENT, &event_id, &args.payload()?)?;
    let config = context.load(Vec::new())?.config;
    let defaults = Defaults {
        retry: config.retry.default,
        handlers: wiring::handler_defaults(&config),
    };
    let store = context.store().await?;
    let origin = Origin {
        source_agent: SOURCE_AGENT,
        event_id: &event_id,
        correlation_id: None,
        trace: None,
    };
    let submitted = request::submit(&store, request::new_actor(), &defaults, &origin, trigger).await?;
    if let Some(patience) = args.wait {
        return task::wait(context, &store, submitted.task_id, patience).await;
    }
    if context.is_json() {
        return output::json(&Answer {
            task_id: submitted.task_id.to_string(),
            event_id,
            created: submitted.is_new,
        });
    }
    output::fields(&[
        ("task_id", submitted.task_id.to_string()),
        ("event_id", event_id),
        ("created", submitted.is_new.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TriggerArgs,
    }

    fn payload(line: &[&str]) -> Result<String, Error> {
        Line::try_parse_from(["trigger"].iter().chain(line))
            .unwrap()
            .args
            .payload()
    }

    #[test]
    fn json_passes_untouched_and_text_is_quoted() {
        let line = [
            "echo",
            "--args",
            " [1e400, {\"b\":1,\"a\":2}] ",
            "--queue",
            "a\"b",
            "--timeout",
            "-1.50",
            "--retry",
            "quick",
        ];
        assert_eq!(
            payload(&line).unwrap(),
            r#"{"task_name":"echo","args":[1e400, {"b":1,"a":2}],"queue":"a\"b","timeout_seconds":-1.50,"retry":"quick"}"#
        );
        let line = ["echo", "--retry", r#"{"jitter":0}"#, "--wait", "2.5"];
        assert_eq!(payload(&line).unwrap(), r#"{"task_name":"echo","retry":{"jitter":0}}"#);
    }

    #[test]
    fn json_that_would_close_its_field_is_refused() {
        for json in [r#"[],"queue":"other""#, "[1", "", "hi"] {
            let refused = payload(&["echo", "--args", json]).unwrap_err();
            assert!(refused.to_string().contains("`args` is not JSON"), "{refused}");
        }
    }
}
