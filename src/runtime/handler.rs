//! What runs a task: a function under a name.
//!
//! Programs register async or blocking functions; arguments arrive typed through serde, results leave as JSON. A
//! handler may be called again for the same task: `task_id` is its idempotency key, `attempt` its fencing token.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::defaults::HandlerDefaults;
use super::detached::{Threads, run_blocking};
use crate::domain::id::{Name, TaskId};
use crate::store::functions::Claimed;
use crate::store::inspect::inputs_json;
use crate::store::record::Body;

/// What a handler is told about its attempt.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TaskContext {
    /// The task; the same for every attempt.
    pub task_id: TaskId,
    /// The attempt, from 1 and always increasing.
    pub attempt: u32,
    /// The name under which the handler was found.
    pub name: String,
    /// Positional arguments, a JSON list.
    pub args: Box<RawValue>,
    /// Named arguments, a JSON object.
    pub kwargs: Box<RawValue>,
    /// The results of what the task depends on, by key: a JSON object.
    pub inputs: Box<RawValue>,
    /// The workflow that the task belongs to.
    pub workflow_id: Option<String>,
    /// Free-form data of the trigger, a JSON object.
    pub metadata: Box<RawValue>,
    /// How long the attempt may take.
    pub timeout: Option<Duration>,
    /// By when it must have ended, by the replica's clock, in milliseconds since the Unix epoch.
    pub deadline_ms: Option<i64>,
    /// W3C trace context of the trigger.
    pub traceparent: Option<String>,
    /// W3C trace state of the trigger.
    pub tracestate: Option<String>,
    /// Fires when the attempt is to end: the task was cancelled, timed out or taken away.
    pub cancelled: CancellationToken,
    /// The threads of the attempt, which its end does not end.
    pub(super) threads: Threads,
}

impl TaskContext {
    /// What the handler of a task that was handed out is told; `cancelled` ends with the attempt.
    pub(crate) fn new(
        claimed: &Claimed,
        body: Body,
        inputs: Vec<(String, String)>,
        cancelled: CancellationToken,
    ) -> Self {
        let timeout = body.spec.timeout_seconds.map(Duration::from_secs_f64);
        Self {
            task_id: claimed.task_id,
            attempt: claimed.attempt,
            name: body.task_name,
            args: body.spec.args,
            kwargs: body.spec.kwargs,
            inputs: inputs_json(inputs),
            workflow_id: body.workflow_id,
            metadata: body.spec.metadata,
            timeout,
            deadline_ms: timeout.map(|timeout| {
                let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
                jiff::Timestamp::now().as_millisecond().saturating_add(timeout_ms)
            }),
            traceparent: body.traceparent,
            tracestate: body.tracestate,
            cancelled,
            threads: Threads::default(),
        }
    }

    /// The arguments as `T`: from the positional ones when there are any, else from the named ones. A struct reads both;
    /// a handler that wants none takes `()`.
    ///
    /// # Errors
    ///
    /// A permanent [`TaskError`] when they do not fit, or when both kinds are given.
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T, TaskError> {
        let has_args = self.args.get().trim_start_matches('[').trim() != "]";
        let has_kwargs = self.kwargs.get().trim_start_matches('{').trim() != "}";
        if has_args && has_kwargs {
            return Err(TaskError::permanent(
                "invalid_arguments",
                "give either args or kwargs, not both",
            ));
        }
        // With no arguments at all there is nothing to prefer: `()` reads only `null`, a struct of optional fields only
        // an object.
        let candidates = match (has_args, has_kwargs) {
            (true, _) => vec![self.args.get()],
            (false, true) => vec![self.kwargs.get()],
            (false, false) => vec!["[]", "{}", "null"],
        };
        let mut outcomes = candidates.into_iter().map(serde_json::from_str);
        let first = outcomes.next().unwrap_or_else(|| serde_json::from_str("null"));
        first
            .or_else(|error| outcomes.find_map(Result::ok).ok_or(error))
            .map_err(|error| TaskError::permanent("invalid_arguments", &error.to_string()))
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
#[non_exhaustive]
pub struct TaskError {
    /// A code: `handler_error`, or the handler's own.
    pub kind: String,
    /// What happened, for people.
    pub message: String,
    /// Whether another attempt may do better.
    pub is_retryable: bool,
    /// Whether the target of the handler could not be reached, or is down. A handler most of whose attempts fail so is
    /// paused until its target is back.
    pub is_unreachable: bool,
    /// The shortest wait before the next attempt, where the target asked for one; at most an hour counts.
    pub retry_after: Option<Duration>,
}

impl TaskError {
    /// A failure that another attempt may not meet.
    #[must_use]
    pub fn new(message: &str) -> Self {
        Self {
            kind: "handler_error".to_owned(),
            message: message.to_owned(),
            is_retryable: true,
            is_unreachable: false,
            retry_after: None,
        }
    }

    /// A failure because the target of the handler could not be reached: nothing was done, and another attempt may find
    /// it. Under the code `unreachable`.
    #[must_use]
    pub fn unreachable(message: &str) -> Self {
        Self {
            is_unreachable: true,
            ..Self::new(message).with_kind("unreachable")
        }
    }

    /// A failure that every attempt would meet.
    #[must_use]
    pub fn permanent(kind: &str, message: &str) -> Self {
        Self {
            is_retryable: false,
            ..Self::new(message).with_kind(kind)
        }
    }

    /// The same failure, with the shortest wait before the next attempt.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same failure under a code of the handler's own.
    #[must_use]
    pub fn with_kind(mut self, kind: &str) -> Self {
        kind.clone_into(&mut self.kind);
        self
    }
}

impl<E: std::error::Error> From<&E> for TaskError {
    /// The error with all its causes, as a failure that may be retried.
    fn from(error: &E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            message = format!("{message}: {source}");
            cause = source.source();
        }
        Self::new(&message)
    }
}

/// What a handler gives back: JSON, or why not.
pub type HandlerResult = Result<Box<RawValue>, TaskError>;

/// A running handler.
pub type HandlerFuture = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

/// Runs tasks of one name.
pub trait Handler: Send + Sync + 'static {
    /// Runs one attempt. Dropping the future aborts it.
    fn run(&self, task: TaskContext) -> HandlerFuture;

    /// Whether an attempt that runs out of time means that a target elsewhere does not answer, as a failure with
    /// [`TaskError::is_unreachable`] does.
    fn has_target(&self) -> bool {
        false
    }

    /// How long an attempt may go on once it is told to end by [`TaskContext::cancelled`], where dropping its future does
    /// not end what it does. A saga is undone only when nothing of its steps goes on, so a step that is given up gets so
    /// long; zero for handlers that end with their future.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// Looks whether a target that could not be reached may be back, without running anything. Only then is a task tried.
    fn probe(&self) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        Box::pin(std::future::ready(true))
    }

    /// Waits until nothing is left of attempts that were aborted. A replica that stops waits for it.
    fn cleaned_up(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

struct AsyncFunction<F> {
    function: F,
    patience: Duration,
}

impl<F, Fut> Handler for AsyncFunction<F>
where
    F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    fn run(&self, task: TaskContext) -> HandlerFuture {
        Box::pin((self.function)(task))
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

/// A handler with what its tasks get where a trigger says nothing.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) defaults: HandlerDefaults,
    /// How many tasks of the name may run at a time, over all replicas.
    max_running: Option<NonZeroU32>,
}

/// The handlers of a program by task name.
#[derive(Clone, Default)]
pub struct Handlers {
    by_name: BTreeMap<String, Registered>,
    /// What agents carry out.
    by_agents: BTreeMap<String, Assigned>,
}

/// An agent that carries out the tasks of a name.
#[derive(Clone)]
struct Assigned {
    agent: Name,
    heartbeat_timeout: Duration,
    defaults: HandlerDefaults,
    max_running: Option<NonZeroU32>,
}

impl Handlers {
    /// No handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a handler under a task name; the last one under a name counts.
    #[must_use]
    pub fn with(mut self, name: &str, handler: impl Handler) -> Self {
        let registered = Registered {
            handler: Arc::new(handler),
            defaults: HandlerDefaults::default(),
            max_running: None,
        };
        self.by_agents.remove(name);
        self.by_name.insert(name.to_owned(), registered);
        self
    }

    /// Lets an agent carry out the tasks of a name: a program outside, which gets them through its inbox and may be silent for
    /// `heartbeat_timeout`.
    #[must_use]
    pub fn with_agent(mut self, name: &str, agent: Name, heartbeat_timeout: Duration) -> Self {
        let assigned = Assigned {
            agent,
            heartbeat_timeout,
            defaults: HandlerDefaults::default(),
            max_running: None,
        };
        self.by_name.remove(name);
        self.by_agents.insert(name.to_owned(), assigned);
        self
    }

    /// Registers an async function. Its argument comes from the task's `args` or `kwargs`, see
    /// [`TaskContext::arguments`]; its result becomes JSON.
    ///
    /// ```
    /// use waooaw_orchestration::Handlers;
    ///
    /// let handlers = Handlers::new().with_async("add", |(x, y): (i64, i64), _task| async move { Ok(x + y) });
    /// assert_eq!(handlers.names(), ["add"]);
    /// ```
    #[must_use]
    pub fn with_async<T, R, F, Fut>(self, name: &str, function: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize,
        F: Fn(T, TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, TaskError>> + Send + 'static,
    {
        let function = Arc::new(function);
        self.with(
            name,
            AsyncFunction {
                patience: Duration::ZERO,
                function: move |task: TaskContext| {
                    let function = Arc::clone(&function);
                    async move { to_json(&function(task.arguments()?, task).await?) }
                },
            },
        )
    }

    /// Registers a function that computes or waits without yielding; it runs on a thread of its own. It can not be
    /// aborted from outside: a long one should look at [`TaskContext::cancelled`] now and then. After a timeout or a
    /// cancel its attempt ends all the same, and the function is reported as detached until it returns. Its worker
    /// takes no other task until then.
    #[must_use]
    pub fn with_blocking<T, R, F>(self, name: &str, function: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize + 'static,
        F: Fn(T, &TaskContext) -> Result<R, TaskError> + Send + Sync + 'static,
    {
        let function = Arc::new(function);
        self.with(
            name,
            AsyncFunction {
                // Nobody can end a thread; it has ended when it has.
                patience: Duration::MAX,
                function: move |task: TaskContext| {
                    let function = Arc::clone(&function);
                    async move {
                        let (name, threads) = (task.name.clone(), task.threads.clone());
                        run_blocking(&name, &threads, move || to_json(&function(task.arguments()?, &task)?)).await
                    }
                },
            },
        )
    }

    /// Adds all handlers of `other`.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.by_name.extend(other.by_name);
        self.by_agents.extend(other.by_agents);
        self
    }

    /// The handler of one name alone, if there is one.
    #[must_use]
    pub fn only(&self, name: &str) -> Option<Self> {
        let registered = self.by_name.get(name)?.clone();
        Some(Self {
            by_name: BTreeMap::from([(name.to_owned(), registered)]),
            by_agents: BTreeMap::new(),
        })
    }

    /// Sets what tasks of a name get where a trigger says nothing; does nothing for a name without handler.
    #[must_use]
    pub fn with_defaults(mut self, name: &str, defaults: HandlerDefaults) -> Self {
        if let Some(registered) = self.by_name.get_mut(name) {
            registered.defaults = defaults;
        } else if let Some(assigned) = self.by_agents.get_mut(name) {
            assigned.defaults = defaults;
        }
        self
    }

    /// What a replica says of the names that agents carry out tasks of: name, agent, and how long one may be silent and take, in
    /// milliseconds.
    pub(crate) fn assignments(&self) -> Vec<String> {
        let assignments = self.by_agents.iter();
        assignments
            .map(|(name, assigned)| {
                let timeout = Duration::from_secs_f64(assigned.defaults.timeout_seconds.unwrap_or_default());
                format!(
                    "{name} {} {} {}",
                    assigned.agent,
                    assigned.heartbeat_timeout.as_millis(),
                    timeout.as_millis()
                )
            })
            .collect()
    }

    /// Whether nothing can be carried out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.by_agents.is_empty()
    }

    /// Lets no more than so many tasks of a name run at a time, over all replicas; does nothing for a name without handler.
    /// Where replicas say different numbers the smallest counts. With several partitions each has its share, at least 1.
    #[must_use]
    pub fn with_max_running(mut self, name: &str, max_running: NonZeroU32) -> Self {
        if let Some(registered) = self.by_name.get_mut(name) {
            registered.max_running = Some(max_running);
        } else if let Some(assigned) = self.by_agents.get_mut(name) {
            assigned.max_running = Some(max_running);
        }
        self
    }

    /// The names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    /// The names of tasks that handlers or agents carry out, in order.
    pub(crate) fn all_names(&self) -> Vec<String> {
        let names: BTreeSet<&String> = self.by_name.keys().chain(self.by_agents.keys()).collect();
        names.into_iter().cloned().collect()
    }

    /// Whether there is a handler of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Waits until nothing is left of attempts that were aborted.
    pub(crate) async fn cleaned_up(&self) {
        for registered in self.by_name.values() {
            registered.handler.cleaned_up().await;
        }
    }

    /// How many tasks of a name may run at a time, by name, where there is a limit.
    pub(crate) fn limits(&self) -> BTreeMap<String, NonZeroU32> {
        let own = self.by_name.iter().map(|(name, known)| (name, known.max_running));
        let agents = self.by_agents.iter().map(|(name, known)| (name, known.max_running));
        own.chain(agents)
            .filter_map(|(name, max_running)| Some((name.clone(), max_running?)))
            .collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Registered> {
        self.by_name.get(name)
    }

    pub(crate) fn defaults(&self) -> BTreeMap<String, HandlerDefaults> {
        let own = self.by_name.iter().map(|(name, known)| (name, &known.defaults));
        let agents = self.by_agents.iter().map(|(name, known)| (name, &known.defaults));
        own.chain(agents)
            .map(|(name, defaults)| (name.clone(), defaults.clone()))
            .collect()
    }
}

fn to_json(value: &impl Serialize) -> HandlerResult {
    serde_json::value::to_raw_value(value)
        .map_err(|error| TaskError::permanent("invalid_result", &format!("the result is no JSON: {error}")))
}
