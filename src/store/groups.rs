//! Workflows and sagas as typed calls: made whole, looked at, ended.

use serde_json::value::RawValue;

use super::connection::Args;
use super::functions::{Appetite, Asker, Claimed, claimed};
use super::library::Function;
use super::record::{NewTask, RANK_AT, edges_text};
use super::reply::{string, text, worded};
use super::{Store, StoreError};
use crate::domain::id::{Name, Partition, ReplicaId, TaskId};
use crate::domain::priority::Priority;
use crate::domain::state::TaskState;

/// How many tasks one call stages at most.
const STAGE_TASKS: usize = 100;
/// How many dependencies one call stages at most; those of a task that has more are staged by several calls.
const STAGE_EDGES: usize = 250;
/// How many bytes one call stages at most, where a task has fewer.
const STAGE_BYTES: usize = 256 << 10;

/// What kind of group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    /// Tasks with edges.
    Workflow,
    /// Tasks with edges and a way back.
    Saga,
}

impl GroupKind {
    /// Its name in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Workflow => "workflow",
            Self::Saga => "saga",
        }
    }
}

/// A task of a group that is to be made.
#[derive(Debug, Clone)]
pub struct Member {
    /// The task.
    pub task: NewTask,
    /// Its flags, see [`super::record::Flags`].
    pub flags: u16,
    /// What it depends on, with the name of each input.
    pub depends_on: Vec<(TaskId, Name)>,
}

/// A group that is to be made.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// Its id.
    pub id: Name,
    /// What it is.
    pub kind: GroupKind,
    /// Derived from what asked for it: the same request makes it once.
    pub identity: TaskId,
    /// Its name, for people.
    pub name: Option<String>,
    /// What happens to tasks that join later when something they depend on fails: `cancel`, `run` or `wait`.
    pub policy: &'static str,
    /// The priority of tasks that join and name none.
    pub priority: Option<&'static str>,
    /// The chain that it belongs to.
    pub correlation_id: String,
    /// The event that asked for it.
    pub event_id: String,
    /// W3C trace context: `traceparent` and `tracestate`.
    pub trace: Option<(String, Option<String>)>,
    /// Its tasks, those that others depend on before them.
    pub members: Vec<Member>,
    /// The fields of a saga's steps.
    pub steps: Vec<(String, String)>,
    /// A saga's steps that a handler undoes, with the name of the task that does: it must be known as those of the tasks.
    pub compensations: Vec<(Name, Name)>,
}

/// What became of a group that was to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Staged {
    /// It exists now.
    Ok,
    /// This request had made it before; nothing changed.
    Duplicate,
    /// Another request had made one of this id; nothing changed.
    Taken,
    /// A task that carried the workflow's id before has this key; nothing changed.
    KeyTaken(String),
    /// No replica has registered this task name within the last hour; nothing changed.
    Unknown(String),
    /// The queue is full; nothing changed.
    Full,
    /// There would be more named queues than there may be; nothing changed.
    TooManyQueues,
}

/// What became of the wish to end a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It is ending.
    Ok,
    /// It had ended before.
    Terminal,
    /// There is no such group.
    Missing,
    /// It is a saga behind its pivot: there is no way back.
    Passed,
}

impl NewGroup {
    /// What the group's own events share, and its policy.
    fn head(&self) -> String {
        let name = self
            .name
            .as_ref()
            .map_or_else(|| "null".to_owned(), |name| super::record::json_text(name));
        let trace = match &self.trace {
            Some((parent, Some(state))) => format!("{parent}\u{1f}{state}"),
            Some((parent, None)) => parent.clone(),
            None => String::new(),
        };
        let priority = self.priority.unwrap_or_default();
        format!(
            "{name}\n{}\n{priority}\n{}\n{}\n{trace}",
            self.policy, self.correlation_id, self.event_id
        )
    }

    /// The keys of its tasks.
    fn keys(&self) -> String {
        let keys = self
            .members
            .iter()
            .filter_map(|member| member.task.trigger.key.as_ref());
        keys.map(Name::as_str).collect::<Vec<_>>().join(",")
    }

    fn names(&self) -> String {
        // What is for an agent needs no handler.
        let tasks = self.members.iter().map(|member| &member.task.trigger);
        let tasks = tasks.filter(|task| task.agent_id.is_none()).map(|task| &task.task_name);
        let compensations = self.compensations.iter().map(|(_, task)| task);
        distinct(tasks.chain(compensations).map(Name::as_str))
    }

    fn queues(&self) -> String {
        distinct(self.members.iter().map(|member| member.task.queue.as_str()))
    }

    /// Where to cut the tasks, so that no call keeps Redis for long.
    fn chunks(&self) -> Vec<Vec<Piece<'_>>> {
        let mut chunks = vec![Vec::new()];
        let (mut edges, mut bytes) = (0, 0);
        for member in &self.members {
            let size = member.task.trigger.args.get().len() + member.task.trigger.kwargs.get().len();
            let mut depends_on = &member.depends_on[..];
            let mut is_first = true;
            while is_first || !depends_on.is_empty() {
                let count = depends_on.len().min(STAGE_EDGES);
                let tasks = chunks.last().map_or(0, Vec::len);
                let is_full = tasks >= STAGE_TASKS || edges + count > STAGE_EDGES || bytes + size > STAGE_BYTES;
                // What goes on with a task comes with the next call, when its record is there.
                if tasks > 0 && (is_full || !is_first) {
                    chunks.push(Vec::new());
                    (edges, bytes) = (0, 0);
                }
                let (now, later) = depends_on.split_at(count);
                if let Some(chunk) = chunks.last_mut() {
                    chunk.push(Piece {
                        member,
                        is_first,
                        depends_on: now,
                    });
                }
                edges += count;
                bytes += if is_first { size } else { 0 };
                (depends_on, is_first) = (later, false);
            }
        }
        chunks
    }
}

/// A task with as many of its dependencies as one call stages.
struct Piece<'a> {
    member: &'a Member,
    /// Whether it brings the task, or only more that it depends on.
    is_first: bool,
    depends_on: &'a [(TaskId, Name)],
}

impl Piece<'_> {
    fn push(&self, args: &mut Args) {
        let task = &self.member.task;
        args.show(task.id);
        if self.is_first {
            let total = self.member.depends_on.len();
            args.push(task.staged_routing(self.member.flags, total, self.depends_on))
                .push(task.caller_members())
                .push(task.body());
        } else {
            args.push(format!("+{}", edges_text(self.depends_on))).push("").push("");
        }
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: std::collections::BTreeSet<&str> = names.collect();
    names.into_iter().collect::<Vec<_>>().join(",")
}

fn netstrings(fields: &[(String, String)]) -> String {
    let mut text = String::new();
    for part in fields.iter().flat_map(|(name, value)| [name, value]) {
        text.push_str(&part.len().to_string());
        text.push(':');
        text.push_str(part);
        text.push(',');
    }
    text
}

impl Store {
    /// Makes a group, whole or not at all, and hands out work for the free slots with the last of its calls.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn stage(
        &self,
        actor: ReplicaId,
        asker: Asker,
        appetite: &Appetite,
        group: &NewGroup,
    ) -> Result<(Staged, Vec<Claimed>), StoreError> {
        let partition = Partition::of_name(group.id.as_str(), self.partition_count());
        let chunks = group.chunks();
        let none = Appetite::none();
        let (identity, head) = (group.identity.to_string(), group.head());
        let mut place = 0;
        loop {
            let (is_first, is_last) = (place == 0, place + 1 == chunks.len());
            let mut args = Args::default();
            args.show(actor).push(asker.as_str());
            if is_last { appetite } else { &none }.push(&mut args);
            args.push(group.id.as_str())
                .push(group.kind.as_str())
                .push(identity.as_str())
                .flag(is_first)
                .flag(is_last)
                .push(head.as_str());
            if is_first {
                args.push(group.names()).push(group.queues()).push(match group.kind {
                    GroupKind::Workflow => group.keys(),
                    GroupKind::Saga => netstrings(&group.steps),
                });
            } else {
                args.push("").push("").push("");
            }
            for piece in &chunks[place] {
                piece.push(&mut args);
            }
            let (_, mut rest) = worded(self.call(Function::Stage, partition, args).await?, "stage")?;
            let word = rest.next().and_then(string).ok_or(StoreError::Protocol("stage"))?;
            let staged = match word.as_str() {
                "more" => {
                    place += 1;
                    continue;
                }
                // It was swept meanwhile: from the start.
                "again" => {
                    place = 0;
                    continue;
                }
                "ok" => Staged::Ok,
                "duplicate" => Staged::Duplicate,
                "taken" => Staged::Taken,
                "full" => Staged::Full,
                "queues" => Staged::TooManyQueues,
                "memory" => return Err(StoreError::OutOfMemory),
                other => match other.split_once(' ') {
                    Some(("unknown", name)) => Staged::Unknown(name.to_owned()),
                    Some(("key", key)) => Staged::KeyTaken(key.to_owned()),
                    Some(_) | None => return Err(StoreError::Protocol("stage")),
                },
            };
            return Ok((staged, claimed(rest.next(), "stage")?));
        }
    }

    /// Ends a workflow or a saga before its time. `cause` is the `event_id` of the command that asks, `message` the
    /// caller's own words.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn stop(
        &self,
        actor: ReplicaId,
        kind: GroupKind,
        id: &Name,
        cause: Option<&str>,
        message: Option<&str>,
    ) -> Result<Stopped, StoreError> {
        let partition = Partition::of_name(id.as_str(), self.partition_count());
        let members = message.map_or(String::new(), |text| {
            format!(",\"message\":{}", super::record::json_text(text))
        });
        let mut args = Args::default();
        args.show(actor)
            .push(kind.as_str())
            .push(cause.unwrap_or_default())
            .push(members)
            .push(id.as_str());
        self.group_word(Function::Stop, partition, args).await
    }

    /// Lets a saga try again what it could not undo.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again is safe.
    pub async fn resume(&self, actor: ReplicaId, id: &Name, who: &str) -> Result<Stopped, StoreError> {
        let partition = Partition::of_name(id.as_str(), self.partition_count());
        let mut args = Args::default();
        args.show(actor).push(id.as_str()).push(super::record::json_text(who));
        self.group_word(Function::Resume, partition, args).await
    }

    async fn group_word(&self, function: Function, partition: Partition, args: Args) -> Result<Stopped, StoreError> {
        const NAME: &str = "stop";
        let (_, mut rest) = worded(self.call(function, partition, args).await?, NAME)?;
        let word = rest.next();
        match word.as_ref().and_then(text) {
            Some("ok") => Ok(Stopped::Ok),
            Some("terminal") => Ok(Stopped::Terminal),
            Some("missing") => Ok(Stopped::Missing),
            Some("passed") => Ok(Stopped::Passed),
            Some(_) | None => Err(StoreError::Protocol(NAME)),
        }
    }

    /// A group's record; `None` where nobody started one of this id.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn group(&self, id: &Name) -> Result<Option<Group>, StoreError> {
        let fields = self.hash(&self.keys().group_record(id, self.partition_count())).await?;
        Ok(Group::read(fields))
    }

    /// The priorities that started workflows give to tasks that name none, where they do, in order.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn group_priorities(&self, ids: &[&Name]) -> Result<Vec<Option<String>>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for id in ids {
            pipeline
                .cmd("HGET")
                .arg(self.keys().group_record(id, self.partition_count()))
                .arg("priority");
        }
        let values = self.send_all(&pipeline).await?;
        Ok(values
            .into_iter()
            .map(|value| string(value).filter(|priority| !priority.is_empty()))
            .collect())
    }

    /// The priorities of tasks, in order; `None` where there is no such task.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn priorities(&self, tasks: &[TaskId]) -> Result<Vec<Option<Priority>>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for task in tasks {
            pipeline
                .cmd("GETRANGE")
                .arg(self.keys().task(*task))
                .arg(RANK_AT)
                .arg(RANK_AT);
        }
        let values = self.send_all(&pipeline).await?;
        let rank = |value| string(value).and_then(|text| text.bytes().next());
        Ok(values
            .into_iter()
            .map(|value| rank(value).and_then(Priority::from_rank))
            .collect())
    }

    /// The states of tasks, in order; `None` where there is no such task.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn states(&self, tasks: &[TaskId]) -> Result<Vec<Option<TaskState>>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for task in tasks {
            pipeline.cmd("GETRANGE").arg(self.keys().task(*task)).arg(0).arg(0);
        }
        let values = self.send_all(&pipeline).await?;
        let letter = |value| string(value).and_then(|text| text.bytes().next());
        Ok(values
            .into_iter()
            .map(|value| letter(value).and_then(TaskState::from_letter))
            .collect())
    }

    /// The fields of a saga's steps.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    pub async fn steps(&self, saga: &Name) -> Result<Vec<(String, String)>, StoreError> {
        self.hash(&self.keys().steps(saga, self.partition_count())).await
    }
}

impl Store {
    /// The result that came with the late success of a saga's step, see `lua/saga.lua`; `None` where there was none.
    pub(super) async fn late_result(&self, saga: &str, task: TaskId) -> Result<Option<String>, StoreError> {
        let saga: Name = saga.parse().map_err(|_| StoreError::Protocol("saga"))?;
        let key = self.keys().steps(&saga, self.partition_count());
        let field = async |name: String| {
            let value = self.send(redis::cmd("HGET").arg(&key).arg(name)).await?;
            Ok::<_, StoreError>(string(value))
        };
        match field(format!("i{task}")).await? {
            Some(number) => field(format!("r{number}")).await,
            None => Ok(None),
        }
    }

    /// The tasks and names of the steps that come before a saga's, see `lua/group.lua`.
    pub(super) async fn steps_before(&self, saga: &str, task: TaskId) -> Result<Vec<(TaskId, String)>, StoreError> {
        let saga: Name = saga.parse().map_err(|_| StoreError::Protocol("saga"))?;
        let fields: std::collections::HashMap<String, String> = self.steps(&saga).await?.into_iter().collect();
        let number: u32 = fields
            .get(&format!("i{task}"))
            .and_then(|number| number.parse().ok())
            .ok_or(StoreError::Protocol("saga step"))?;
        let numbers: Vec<u32> = match fields.get(&format!("a{number}")) {
            Some(listed) => listed.split(',').filter_map(|one| one.parse().ok()).collect(),
            None => (0..number).collect(),
        };
        Ok(numbers
            .into_iter()
            .filter_map(|one| {
                let id = fields.get(&format!("f{one}"))?.parse().ok()?;
                Some((id, fields.get(&format!("n{one}"))?.clone()))
            })
            .collect())
    }
}

/// A started workflow or saga as it is right now.
#[derive(Debug, Clone)]
pub struct Group {
    /// What it is.
    pub kind: GroupKind,
    /// A letter, see `lua/saga.lua` and `lua/follow.lua`; never `S`, of which nobody is told.
    pub state: char,
    /// Its name, JSON.
    pub name: Box<RawValue>,
    /// The number of its last event.
    pub seq: u64,
    /// How many tasks it has; of a saga, how many steps.
    pub total: u64,
    /// How many have not ended.
    pub left: u64,
    /// How many completed.
    pub completed: u64,
    /// How many failed for good.
    pub failed: u64,
    /// How many timed out for good.
    pub timeout: u64,
    /// How many were cancelled.
    pub cancelled: u64,
    /// The task whose failure is the reason that it does not complete.
    pub root_cause: Option<String>,
    /// Of a saga: the step that failed.
    pub failed_step: Option<String>,
    /// The chain that it belongs to.
    pub correlation_id: String,
    /// When it was made known, ms since the epoch.
    pub created_ms: i64,
    /// When it ended.
    pub finished_ms: Option<i64>,
}

impl Group {
    fn read(fields: Vec<(String, String)>) -> Option<Self> {
        let fields: std::collections::HashMap<String, String> = fields.into_iter().collect();
        let text = |name: &str| fields.get(name).filter(|value| !value.is_empty()).cloned();
        let number = |name: &str| text(name).and_then(|value| value.parse().ok()).unwrap_or_default();
        let moment = |name: &str| text(name).and_then(|value| value.parse::<i64>().ok());
        let state = text("state")?.chars().next().filter(|state| *state != 'S')?;
        Some(Self {
            kind: if text("kind")? == "saga" {
                GroupKind::Saga
            } else {
                GroupKind::Workflow
            },
            state,
            name: RawValue::from_string(text("name").unwrap_or_else(|| "null".to_owned())).ok()?,
            seq: number("seq"),
            total: number("total"),
            left: number("left"),
            completed: number("completed"),
            failed: number("failed"),
            timeout: number("timeout"),
            cancelled: number("cancelled"),
            root_cause: text("root"),
            failed_step: text("failed_step"),
            correlation_id: text("correlation").unwrap_or_default(),
            created_ms: moment("created_ms").unwrap_or_default(),
            finished_ms: moment("finished_ms").filter(|ms| *ms > 0),
        })
    }
}
