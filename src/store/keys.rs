//! Every name in Redis, made in one place.

use crate::domain::id::{Name, Partition, QueueName, ReplicaId, TaskId};
use crate::domain::priority::Priority;

/// The prefix that all keys start with, `waooaw` by default.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys under `prefix`, which must hold no braces.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The stream that agents publish triggers to.
    #[must_use]
    pub fn triggers(&self) -> String {
        format!("{}:triggers", self.prefix)
    }

    /// The stream of events about something that exists.
    #[must_use]
    pub fn commands(&self) -> String {
        format!("{}:commands", self.prefix)
    }

    /// The short-lived stream of metrics snapshots.
    #[must_use]
    pub fn metrics(&self) -> String {
        format!("{}:metrics", self.prefix)
    }

    /// A pattern that every key matches.
    #[must_use]
    pub(super) fn everything(&self) -> String {
        let mut pattern = String::new();
        for letter in self.prefix.chars() {
            if "*?[]^\\".contains(letter) {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern + ":*"
    }

    /// What a benchmark's own keys begin with.
    #[must_use]
    pub(super) fn scratch(&self, partition: Partition) -> String {
        self.of(partition, "floor")
    }

    /// What a partition's task records begin with, and a star.
    #[must_use]
    pub(super) fn every_task(&self, partition: Partition) -> String {
        self.of(partition, "t:*")
    }

    /// What the records of a partition's workflows and sagas begin with, and a star.
    #[must_use]
    pub(super) fn every_group_record(&self, partition: Partition) -> String {
        self.of(partition, "w:*")
    }

    /// A key by its name behind the partition's prefix.
    #[must_use]
    pub fn behind(&self, partition: Partition, name: &str) -> String {
        self.of(partition, name)
    }

    /// The queues that are paused, with who, why and when.
    #[must_use]
    pub fn paused(&self, partition: Partition) -> String {
        self.of(partition, "paused")
    }

    /// The names of the tasks that a replica can run.
    #[must_use]
    pub fn can(&self, partition: Partition, replica: &str) -> String {
        self.of(partition, &format!("can:{replica}"))
    }

    /// A key of one partition.
    fn of(&self, partition: Partition, name: &str) -> String {
        format!("{}:{{{partition}}}:{name}", self.prefix)
    }

    /// What the partition knows of itself.
    #[must_use]
    pub fn meta(&self, partition: Partition) -> String {
        self.of(partition, "meta")
    }

    /// A key that never exists.
    #[must_use]
    pub fn none(&self, partition: Partition) -> String {
        self.of(partition, "none")
    }

    /// The log of lifecycle events.
    #[must_use]
    pub fn events(&self, partition: Partition) -> String {
        self.of(partition, "events")
    }

    /// The stream that wakes replicas.
    #[must_use]
    pub fn bell(&self, partition: Partition) -> String {
        self.of(partition, "bell")
    }

    /// The replicas that live, with their beats.
    #[must_use]
    pub fn beats(&self, partition: Partition) -> String {
        self.of(partition, "beats")
    }

    /// The queue names.
    #[must_use]
    pub fn queues(&self, partition: Partition) -> String {
        self.of(partition, "queues")
    }

    /// The tasks that wait elsewhere than in their queues, counted.
    #[must_use]
    pub(super) fn aside(&self, partition: Partition) -> String {
        self.of(partition, "aside")
    }

    /// The delayed tasks.
    #[must_use]
    pub fn timers(&self, partition: Partition) -> String {
        self.of(partition, "timers")
    }

    /// What waits in one queue at one priority.
    #[must_use]
    pub fn queue(&self, partition: Partition, queue: &QueueName, priority: Priority) -> String {
        self.of(partition, &format!("queue:{queue}:{}", priority.key_part()))
    }

    /// The names of the tasks that are parked.
    #[must_use]
    pub fn parks(&self, partition: Partition) -> String {
        self.of(partition, "parks")
    }

    /// How many tasks of a name may run at a time, by name.
    pub(super) fn limits(&self, partition: Partition) -> String {
        self.of(partition, "limits")
    }

    /// The running tasks of one name that has such a limit.
    pub(super) fn running(&self, partition: Partition, name: &str) -> String {
        self.of(partition, &format!("running:{name}"))
    }

    /// The tasks of one name that wait for a replica with its handler, or for room under its limit, at one priority.
    #[must_use]
    pub fn parked(&self, partition: Partition, name: &Name, priority: Priority) -> String {
        self.of(partition, &format!("parked:{name}:{}", priority.key_part()))
    }

    /// The same of tasks for agents, which wait for room under the limit of their name.
    pub(super) fn parked_for_agents(&self, partition: Partition, name: &Name, priority: Priority) -> String {
        self.of(partition, &format!("parked:@{name}:{}", priority.key_part()))
    }

    /// The queues beside which tasks are for agents.
    #[must_use]
    pub fn desks(&self, partition: Partition) -> String {
        self.of(partition, "desks")
    }

    /// The tasks for agents of one queue at one priority.
    #[must_use]
    pub fn for_agents(&self, partition: Partition, queue: &QueueName, priority: Priority) -> String {
        self.of(partition, &format!("agents:{queue}:{}", priority.key_part()))
    }

    /// The inbox of an agent.
    #[must_use]
    pub fn inbox(&self, partition: Partition, agent: &str) -> String {
        self.of(partition, &format!("agent:{agent}"))
    }

    /// What is known of a task because an agent has or had it.
    #[must_use]
    pub fn agent_side(&self, id: TaskId) -> String {
        self.of(id.partition(), &format!("g:{id}"))
    }

    /// A task's record.
    #[must_use]
    pub fn task(&self, id: TaskId) -> String {
        self.of(id.partition(), &format!("t:{id}"))
    }

    /// The errors of a task's earlier attempts.
    #[must_use]
    pub fn attempts(&self, id: TaskId) -> String {
        self.of(id.partition(), &format!("x:{id}"))
    }

    /// What a task depends on.
    #[must_use]
    pub fn dependencies(&self, id: TaskId) -> String {
        self.of(id.partition(), &format!("d:{id}"))
    }

    /// The record of a started workflow or saga.
    #[must_use]
    pub fn group_record(&self, id: &Name, partitions: u16) -> String {
        self.of(Partition::of_name(id.as_str(), partitions), &format!("w:{id}"))
    }

    /// The steps of a saga.
    #[must_use]
    pub fn steps(&self, saga: &Name, partitions: u16) -> String {
        self.of(Partition::of_name(saga.as_str(), partitions), &format!("s:{saga}"))
    }

    /// The tasks of a workflow, in order of creation.
    #[must_use]
    pub fn group(&self, workflow: &Name, partitions: u16) -> String {
        self.of(
            Partition::of_name(workflow.as_str(), partitions),
            &format!("group:{workflow}"),
        )
    }

    /// What a replica reports of itself.
    #[must_use]
    pub fn replica(&self, partition: Partition, replica: &ReplicaId) -> String {
        self.of(partition, &format!("replica:{replica}"))
    }

    /// The same of a replica that is known by its name.
    #[must_use]
    pub(super) fn replica_named(&self, partition: Partition, replica: &str) -> String {
        self.of(partition, &format!("replica:{replica}"))
    }

    /// What each worker of a replica did.
    #[must_use]
    pub(super) fn figures(&self, partition: Partition, replica: &str) -> String {
        self.of(partition, &format!("figures:{replica}"))
    }

    /// The dead letters by time.
    #[must_use]
    pub fn dead(&self, partition: Partition) -> String {
        self.of(partition, "dead")
    }

    /// One dead letter.
    #[must_use]
    pub fn dead_letter(&self, partition: Partition, id: &str) -> String {
        self.of(partition, &format!("dead:{id}"))
    }

    /// What became of the dead letter of a rejected trigger.
    #[must_use]
    pub fn gone_letter(&self, partition: Partition, id: &str) -> String {
        self.of(partition, &format!("gone:{id}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_contract() {
        let keys = Keys::new("waooaw");
        let zero = Partition::default();
        assert_eq!(keys.triggers(), "waooaw:triggers");
        assert_eq!(keys.commands(), "waooaw:commands");
        assert_eq!(keys.events(zero), "waooaw:{0}:events");
        assert_eq!(
            keys.queue(zero, &QueueName::default(), Priority::High),
            "waooaw:{0}:queue:default:high"
        );
    }
}
