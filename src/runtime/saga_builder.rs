//! A saga as a program puts it together.
//!
//! What is said becomes the payload of `orchestration.saga.start` and is read by the rules of that event.

use std::time::Duration;

use serde::Serialize;

use super::fields::Fields;
use super::saga_execution::SagaExecution;
use super::sagas::Sagas;
use crate::domain::priority::Priority;
use crate::domain::retry::RetryPolicy;
use crate::domain::saga::SagaTrigger;
use crate::error::Error;

/// One step of a saga: what does it, and what undoes it.
///
/// Both are names of tasks, which the replicas have handlers for. Without more a step starts after the one before.
#[derive(Debug, Clone)]
#[must_use]
pub struct SagaStep {
    fields: Fields,
}

impl SagaStep {
    /// A step of this name, done by tasks named `action`.
    pub fn new(name: &str, action: &str) -> Self {
        let mut fields = Fields::default();
        fields.set("name", name);
        fields.set("action", action);
        Self { fields }
    }

    fn set(mut self, field: &'static str, value: &(impl Serialize + ?Sized)) -> Self {
        self.fields.set(field, value);
        self
    }

    /// What undoes it. A step without counts as undone.
    pub fn compensation(self, task_name: &str) -> Self {
        self.set("compensation", task_name)
    }

    /// What both get: a list of positional arguments, or an object of named ones.
    pub fn args(self, args: impl Serialize) -> Self {
        self.set("args", &args)
    }

    /// Named arguments beside positional ones: an object.
    pub fn kwargs(self, kwargs: impl Serialize) -> Self {
        self.set("kwargs", &kwargs)
    }

    /// What the compensation gets in place of [`SagaStep::args`]. The step's result is in its inputs anyway.
    pub fn compensation_args(self, args: impl Serialize) -> Self {
        self.set("compensation_args", &args)
    }

    /// What the compensation gets in place of [`SagaStep::kwargs`].
    pub fn compensation_kwargs(self, kwargs: impl Serialize) -> Self {
        self.set("compensation_kwargs", &kwargs)
    }

    /// The steps that must have completed before it starts; none for one that starts at once.
    pub fn depends_on(self, steps: &[&str]) -> Self {
        self.set("depends_on", steps)
    }

    /// Once it is done there is no way back. At most one step of a saga is the pivot.
    pub fn pivot(self) -> Self {
        self.set("pivot", &true)
    }

    /// How urgent both are.
    pub fn priority(self, priority: Priority) -> Self {
        self.set("priority", priority.as_str())
    }

    /// The longest that an attempt of either may run.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set("timeout_seconds", &timeout.as_secs_f64())
    }

    /// When a failed attempt of it is followed by another.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.set("retry", &policy)
    }

    /// When a failed attempt to undo it is followed by another; AGGRESSIVE with 10 retries unless said.
    pub fn compensation_retry(self, policy: RetryPolicy) -> Self {
        self.set("compensation_retry", &policy)
    }

    /// The agent that does both.
    pub fn agent_id(self, agent_id: &str) -> Self {
        self.set("agent_id", agent_id)
    }

    /// The queue that both wait in.
    pub fn queue(self, queue: &str) -> Self {
        self.set("queue", queue)
    }
}

/// Puts a saga together.
///
/// ```no_run
/// # async fn example() -> Result<(), waooaw_orchestration::Error> {
/// use std::time::Duration;
/// use serde_json::json;
/// use waooaw_orchestration::{Endpoint, Error, SagaBuilder, SagaStep, Sagas, Store};
///
/// let sagas = Sagas::new(Store::new(Endpoint::new("redis://127.0.0.1:6379"))?);
/// let saga = SagaBuilder::new()
///     .name("order 789")
///     .add_step(
///         SagaStep::new("reserve_inventory", "reserve_inventory")
///             .compensation("release_inventory")
///             .args(json!({ "product_id": "prod-123", "quantity": 5 })),
///     )
///     .add_step(
///         SagaStep::new("charge_payment", "charge_customer")
///             .compensation("refund_customer")
///             .args(json!({ "customer_id": "cust-456", "amount": 99.99 })),
///     )
///     .add_step(
///         SagaStep::new("ship_order", "create_shipment")
///             .compensation("cancel_shipment")
///             .args(json!({ "order_id": "order-789" })),
///     )
///     .timeout(Duration::from_secs(60))
///     .build()?;
///
/// match saga.execute(&sagas).await {
///     Ok(execution) => println!("completed: {}", execution.saga_id),
///     Err(Error::SagaExecution { failed_step, compensation_status, .. }) => {
///         println!("failed at {failed_step:?}, undone: {compensation_status}");
///     }
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct SagaBuilder {
    fields: Fields,
    steps: Vec<SagaStep>,
    event_id: Option<String>,
    timeout: Option<Duration>,
}

impl SagaBuilder {
    /// A saga without steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its id, under which others await it; drawn unless said. An id that another request used is refused.
    pub fn saga_id(mut self, saga_id: &str) -> Self {
        self.fields.set("saga_id", saga_id);
        self
    }

    /// Its name, for people.
    pub fn name(mut self, name: &str) -> Self {
        self.fields.set("name", name);
        self
    }

    /// The next step.
    pub fn add_step(mut self, step: SagaStep) -> Self {
        self.steps.push(step);
        self
    }

    /// The caller's own id of the request, 1 to 256 bytes: starting it again under the same one starts nothing. Drawn unless
    /// said.
    pub fn event_id(mut self, event_id: &str) -> Self {
        self.event_id = Some(event_id.to_owned());
        self
    }

    /// How long [`Saga::execute`] waits; without limit unless said. The saga goes on either way.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The saga, checked.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`], [`Error::InvalidDependency`] and [`Error::CyclicDependency`] with everything that is wrong.
    pub fn build(self) -> Result<Saga, Error> {
        let mut payload = self.fields;
        payload.set_list("steps", self.steps.into_iter().map(|step| step.fields));
        let mut saga = Saga::from_json(&payload.into_payload()?)?;
        saga.timeout = self.timeout;
        saga.event_id = self.event_id.unwrap_or(saga.event_id);
        Ok(saga)
    }

    /// Builds it, starts it and waits for its end.
    ///
    /// # Errors
    ///
    /// As [`SagaBuilder::build`] and [`Saga::execute`].
    pub async fn execute(self, sagas: &Sagas) -> Result<SagaExecution, Error> {
        self.build()?.execute(sagas).await
    }
}

/// A saga that was put together: one request, which starts one saga however often it is made.
#[derive(Debug, Clone)]
pub struct Saga {
    pub(super) trigger: SagaTrigger,
    pub(super) event_id: String,
    timeout: Option<Duration>,
}

impl Saga {
    /// The saga of a definition: the payload of `orchestration.saga.start` as JSON, which the files of `waooaw saga start` hold
    /// too.
    ///
    /// # Errors
    ///
    /// As [`SagaBuilder::build`].
    pub fn from_json(definition: &str) -> Result<Self, Error> {
        Ok(Self {
            trigger: SagaTrigger::parse(definition)?,
            event_id: uuid::Uuid::new_v4().to_string(),
            timeout: None,
        })
    }

    /// As [`SagaBuilder::event_id`].
    #[must_use]
    pub fn event_id(mut self, event_id: &str) -> Self {
        event_id.clone_into(&mut self.event_id);
        self
    }

    /// As [`SagaBuilder::timeout`].
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The names of its steps, each behind what it depends on.
    pub fn steps(&self) -> impl Iterator<Item = &str> {
        self.trigger.steps.iter().map(|step| step.name.as_str())
    }

    /// Starts it and does not wait; answers its id.
    ///
    /// # Errors
    ///
    /// As [`Sagas::start`].
    pub async fn start(&self, sagas: &Sagas) -> Result<String, Error> {
        sagas.start(self).await
    }

    /// Starts it and waits until it has completed. The saga runs on the replicas: it goes on when the caller is gone, and
    /// whoever knows its id can await it with [`Sagas::wait`].
    ///
    /// # Errors
    ///
    /// [`Error::SagaExecution`] when it went back or failed, [`Error::WaitTimeout`] when it has not ended in time; and those
    /// of [`Sagas::start`].
    pub async fn execute(&self, sagas: &Sagas) -> Result<SagaExecution, Error> {
        let id = sagas.start(self).await?;
        sagas.wait(&id, self.timeout).await?.into_success()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_becomes_a_saga_with_every_option() {
        let quick = RetryPolicy::QUICK;
        let saga = SagaBuilder::new()
            .saga_id("order-7")
            .name("order")
            .event_id("e-7")
            .add_step(
                SagaStep::new("reserve", "reserve_stock")
                    .compensation("release_stock")
                    .args(json!({ "product": "p-1" }))
                    .compensation_args(["p-1"])
                    .retry(quick)
                    .compensation_retry(quick)
                    .timeout(Duration::from_millis(500))
                    .priority(Priority::High)
                    .agent_id("stock")
                    .queue("orders"),
            )
            .add_step(
                SagaStep::new("ship", "ship")
                    .args([1])
                    .kwargs(json!({ "k": 2 }))
                    .depends_on(&[])
                    .pivot(),
            )
            .build()
            .unwrap();

        assert_eq!(saga.steps().collect::<Vec<_>>(), ["reserve", "ship"]);
        assert_eq!(saga.event_id, "e-7");
        let [reserve, ship] = &saga.trigger.steps[..] else {
            panic!("not two steps")
        };
        let undo = reserve.compensation.as_ref().unwrap();
        assert_eq!(
            (reserve.action.kwargs.get(), undo.args.get()),
            (r#"{"product":"p-1"}"#, r#"["p-1"]"#)
        );
        assert_eq!((reserve.action.retry, undo.retry), (Some(quick), Some(quick)));
        assert_eq!(reserve.action.timeout_seconds, Some(0.5));
        assert_eq!((ship.pivot, &ship.depends_on[..]), (true, &[][..]));
    }

    #[test]
    fn a_saga_that_can_not_be_is_told_by_the_rules_of_the_event() {
        let refused = |saga: SagaBuilder| saga.build().unwrap_err().to_string();
        let step = SagaStep::new("a", "x");

        assert!(refused(SagaBuilder::new()).contains("`steps` is empty"));
        assert!(refused(SagaBuilder::new().add_step(step.clone().depends_on(&["z"]))).contains("`z`"));
        let bad = step.args(std::collections::BTreeMap::from([((1, 2), 3)]));
        assert!(refused(SagaBuilder::new().add_step(bad)).contains("args"));
    }
}
