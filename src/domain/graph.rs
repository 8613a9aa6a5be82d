//! Tasks that depend on each other: whether they can all run, in what order, and which are ready now.
//!
//! [`DependencyGraph`] is for programs that run their own tasks, or want to look at a graph before they send it as a
//! workflow with [`WorkflowBuilder::from_graph`](crate::WorkflowBuilder::from_graph). Nodes may be added in any order, also before
//! what they depend on. Plans come from the edges alone, whatever is completed; everything is linear in nodes and edges, and no
//! chain is too long.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::layers::{Ring, as_place};
use super::plan::ExecutionPlan;
use super::rejection::cycle_in_words;

/// One task of a graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TaskNode {
    /// Its own name in the graph.
    pub task_id: String,
    /// What it runs.
    pub name: String,
    /// The `task_id`s of what must be completed before it starts. One that comes twice counts once.
    #[serde(default)]
    pub dependencies: Vec<String>,
    /// The agent it is for.
    #[serde(default)]
    pub agent_id: Option<String>,
    /// The caller's own.
    #[serde(default)]
    pub metadata: serde_json::Value,
}

impl TaskNode {
    /// A task that depends on nothing.
    #[must_use]
    pub fn new(task_id: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            task_id: task_id.into(),
            name: name.into(),
            dependencies: Vec::new(),
            agent_id: None,
            metadata: serde_json::Value::Null,
        }
    }

    /// With these dependencies on top.
    #[must_use]
    pub fn depends_on<D: Into<String>>(mut self, dependencies: impl IntoIterator<Item = D>) -> Self {
        self.dependencies.extend(dependencies.into_iter().map(Into::into));
        self
    }

    /// For this agent.
    #[must_use]
    pub fn for_agent(mut self, agent_id: impl Into<String>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    /// With the caller's own data.
    #[must_use]
    pub fn with_metadata(mut self, metadata: serde_json::Value) -> Self {
        self.metadata = metadata;
        self
    }
}

/// Why a graph can not do what is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Tasks depend on each other in a ring, so none of them can start.
    #[error("`{}` {}", cycle.first().map_or("", String::as_str), cycle_in_words(cycle))]
    CyclicDependency {
        /// One such ring: each on the next, the first again at the end.
        cycle: Vec<String>,
    },
    /// A task depends on one that is not in the graph.
    #[error("`{task_id}` depends on `{dependency}`, which is not in the graph")]
    InvalidDependency {
        /// The task.
        task_id: String,
        /// What it names.
        dependency: String,
    },
    /// A task can not be completed yet.
    #[error("`{task_id}` still depends on `{}`", waits_for.join("`, `"))]
    DependencyNotSatisfied {
        /// The task.
        task_id: String,
        /// What is not completed.
        waits_for: Vec<String>,
    },
    /// The graph has a task of this name already.
    #[error("`{0}` is in the graph already")]
    DuplicateTask(String),
    /// The graph has no task of this name.
    #[error("there is no task `{0}` in the graph")]
    TaskNotFound(String),
}

/// Tasks and what they depend on, and which of them are completed.
///
/// ```
/// use waooaw_orchestration::{DependencyGraph, TaskNode};
///
/// let mut graph = DependencyGraph::new();
/// graph.add_node(TaskNode::new("fetch", "fetch_data"))?;
/// graph.add_node(TaskNode::new("load", "load_data").depends_on(["fetch"]))?;
/// graph.add_node(TaskNode::new("notify", "send_notification").depends_on(["load"]))?;
/// graph.add_node(TaskNode::new("metrics", "update_metrics").depends_on(["load"]))?;
///
/// let plan = graph.create_execution_plan()?;
/// assert_eq!(plan.execution_batches, [vec!["fetch"], vec!["load"], vec!["notify", "metrics"]]);
/// assert_eq!(plan.max_parallel_tasks, 2);
///
/// assert_eq!(graph.get_ready_tasks(), ["fetch"]);
/// assert_eq!(graph.mark_completed("fetch")?, ["load"]);
/// # Ok::<(), waooaw_orchestration::GraphError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct DependencyGraph {
    nodes: Vec<Node>,
    places: HashMap<String, u32>,
    /// By a name that is depended on and not in the graph yet: who waits for it.
    expected: HashMap<String, Vec<u32>>,
}

#[derive(Debug, Clone)]
struct Node {
    task: TaskNode,
    dependents: Vec<u32>,
    /// How many of its dependencies are not completed; each completes once, so this is as good as a set of them.
    open: usize,
    is_completed: bool,
}

/// How far the tasks of a graph are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct GraphStatistics {
    /// All.
    pub total: usize,
    /// Done.
    pub completed: usize,
    /// Free to run.
    pub ready: usize,
    /// Waiting for others.
    pub pending: usize,
}

impl DependencyGraph {
    /// A graph without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a task in. What it depends on may follow later.
    ///
    /// # Errors
    /// [`GraphError::DuplicateTask`]; the graph stays as it was.
    pub fn add_node(&mut self, mut task: TaskNode) -> Result<(), GraphError> {
        if self.places.contains_key(&task.task_id) {
            return Err(GraphError::DuplicateTask(task.task_id));
        }
        let mut seen = std::collections::HashSet::with_capacity(task.dependencies.len());
        let is_new: Vec<bool> = task
            .dependencies
            .iter()
            .map(|name| seen.insert(name.as_str()))
            .collect();
        let mut is_new = is_new.into_iter();
        task.dependencies.retain(|_| is_new.next().unwrap_or_default());

        let place = as_place(self.nodes.len());
        // In before its dependencies are looked up: it may depend on itself, which is a ring like any other.
        self.places.insert(task.task_id.clone(), place);
        let dependents = self.expected.remove(&task.task_id).unwrap_or_default();
        let mut open = 0;
        let dependencies = std::mem::take(&mut task.dependencies);
        self.nodes.push(Node {
            task,
            dependents,
            open: 0,
            is_completed: false,
        });
        for name in &dependencies {
            if let Some(&on) = self.places.get(name) {
                let on = &mut self.nodes[on as usize];
                on.dependents.push(place);
                open += usize::from(!on.is_completed);
            } else {
                self.expected.entry(name.clone()).or_default().push(place);
                open += 1;
            }
        }
        let node = &mut self.nodes[place as usize];
        node.open = open;
        node.task.dependencies = dependencies;
        Ok(())
    }

    /// The task of this name.
    #[must_use]
    pub fn get_node(&self, task_id: &str) -> Option<&TaskNode> {
        self.find(task_id).map(|node| &node.task)
    }

    /// All tasks, in the order in which they were added.
    #[must_use]
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &TaskNode> {
        self.nodes.iter().map(|node| &node.task)
    }

    /// How many tasks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What a task depends on, as it names it.
    ///
    /// # Errors
    /// [`GraphError::TaskNotFound`].
    pub fn dependencies(&self, task_id: &str) -> Result<Vec<String>, GraphError> {
        let node = self.find(task_id).ok_or_else(|| missing(task_id))?;
        Ok(node.task.dependencies.clone())
    }

    /// What depends on a task directly, in the order in which it was added.
    ///
    /// # Errors
    /// [`GraphError::TaskNotFound`].
    pub fn dependents(&self, task_id: &str) -> Result<Vec<String>, GraphError> {
        let node = self.find(task_id).ok_or_else(|| missing(task_id))?;
        Ok(self.names(&node.dependents))
    }

    /// Whether every task can run: nothing is missing and no tasks depend on each other in a ring.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.validate().is_ok()
    }

    /// Whether every task can run, and if not, why.
    ///
    /// # Errors
    /// [`GraphError::InvalidDependency`] with the first that is unknown, [`GraphError::CyclicDependency`] with one ring.
    pub fn validate(&self) -> Result<(), GraphError> {
        self.create_execution_plan().map(|_| ())
    }

    /// In what order the tasks can run, and which at once. What is completed does not matter.
    ///
    /// # Errors
    /// Those of [`DependencyGraph::validate`].
    pub fn create_execution_plan(&self) -> Result<ExecutionPlan, GraphError> {
        let edges = self.edges()?;
        let name = |place: usize| self.nodes[place].task.task_id.clone();
        ExecutionPlan::of(self.nodes.len(), name, |place| &edges[place]).map_err(|Ring(ring)| {
            let round = ring.iter().chain(ring.first());
            GraphError::CyclicDependency {
                cycle: round.map(|&place| name(place as usize)).collect(),
            }
        })
    }

    /// Notes that a task is done, and names those that are ready because of it. Said twice, it names them once.
    ///
    /// # Errors
    /// [`GraphError::TaskNotFound`]; [`GraphError::DependencyNotSatisfied`] for a task that still waits for others. The
    /// graph then stays as it was.
    pub fn mark_completed(&mut self, task_id: &str) -> Result<Vec<String>, GraphError> {
        let place = *self.places.get(task_id).ok_or_else(|| missing(task_id))?;
        let node = &self.nodes[place as usize];
        if node.is_completed {
            return Ok(Vec::new());
        }
        if node.open > 0 {
            let is_open = |name: &&String| self.find(name).is_none_or(|on| !on.is_completed);
            return Err(GraphError::DependencyNotSatisfied {
                task_id: task_id.to_owned(),
                waits_for: node.task.dependencies.iter().filter(is_open).cloned().collect(),
            });
        }
        self.nodes[place as usize].is_completed = true;
        let mut ready = Vec::new();
        for at in 0..self.nodes[place as usize].dependents.len() {
            let dependent = self.nodes[place as usize].dependents[at] as usize;
            let dependent = &mut self.nodes[dependent];
            dependent.open -= 1;
            if dependent.open == 0 {
                ready.push(dependent.task.task_id.clone());
            }
        }
        Ok(ready)
    }

    /// The tasks that can run now: not completed, and nothing they depend on is open. In the order in which they were
    /// added.
    #[must_use]
    pub fn get_ready_tasks(&self) -> Vec<String> {
        let ready = self.nodes.iter().filter(|node| node.is_ready());
        ready.map(|node| node.task.task_id.clone()).collect()
    }

    /// Counts the tasks.
    #[must_use]
    pub fn statistics(&self) -> GraphStatistics {
        let total = self.nodes.len();
        let completed = self.nodes.iter().filter(|node| node.is_completed).count();
        let ready = self.nodes.iter().filter(|node| node.is_ready()).count();
        GraphStatistics {
            total,
            completed,
            ready,
            pending: total - completed - ready,
        }
    }

    /// Forgets what is completed.
    pub fn reset(&mut self) {
        for node in &mut self.nodes {
            node.is_completed = false;
            node.open = node.task.dependencies.len();
        }
    }

    fn find(&self, task_id: &str) -> Option<&Node> {
        self.places.get(task_id).map(|&place| &self.nodes[place as usize])
    }

    fn names(&self, places: &[u32]) -> Vec<String> {
        let names = places
            .iter()
            .map(|&place| self.nodes[place as usize].task.task_id.clone());
        names.collect()
    }

    /// By place: the places of what it depends on.
    fn edges(&self) -> Result<Vec<Vec<u32>>, GraphError> {
        let place = |node: &Node, name: &String| {
            self.places
                .get(name)
                .copied()
                .ok_or_else(|| GraphError::InvalidDependency {
                    task_id: node.task.task_id.clone(),
                    dependency: name.clone(),
                })
        };
        let of = |node: &Node| node.task.dependencies.iter().map(|name| place(node, name)).collect();
        self.nodes.iter().map(of).collect()
    }
}

impl Node {
    fn is_ready(&self) -> bool {
        !self.is_completed && self.open == 0
    }
}

fn missing(task_id: &str) -> GraphError {
    GraphError::TaskNotFound(task_id.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn graph(nodes: &[(&str, &[&str])]) -> DependencyGraph {
        let mut graph = DependencyGraph::new();
        for (task_id, dependencies) in nodes {
            let node = TaskNode::new(*task_id, "work").depends_on(dependencies.iter().copied());
            graph.add_node(node).unwrap();
        }
        graph
    }

    fn counts(graph: &DependencyGraph) -> (usize, usize, usize, usize) {
        let counts = graph.statistics();
        (counts.total, counts.completed, counts.ready, counts.pending)
    }

    const DIAMOND: [(&str, &[&str]); 4] = [
        ("merge", &["left", "right"]),
        ("left", &["root"]),
        ("right", &["root"]),
        ("root", &[]),
    ];

    #[test]
    fn a_plan_has_batches_that_need_only_those_before() {
        let plan = graph(&DIAMOND).create_execution_plan().unwrap();

        assert_eq!(
            serde_json::to_string(&plan).unwrap(),
            concat!(
                r#"{"order":["root","left","right","merge"],"#,
                r#""execution_batches":[["root"],["left","right"],["merge"]],"#,
                r#""total_tasks":4,"max_parallel_tasks":2,"levels":3,"warnings":[]}"#
            )
        );
    }

    #[test]
    fn an_empty_graph_has_an_empty_plan() {
        let empty = graph(&[]);

        assert_eq!(empty.create_execution_plan().unwrap(), ExecutionPlan::default());
        assert!(empty.is_valid() && empty.is_empty());
        assert_eq!(counts(&empty), (0, 0, 0, 0));
    }

    #[test]
    fn a_node_keeps_what_it_was_given() {
        let node = TaskNode::new("a", "work")
            .depends_on(["b", "c", "b"])
            .for_agent("seller")
            .with_metadata(serde_json::json!({ "order": 7 }));
        let mut graph = DependencyGraph::new();

        graph.add_node(node.clone()).unwrap();

        let expected = TaskNode {
            dependencies: vec!["b".to_owned(), "c".to_owned()],
            ..node
        };
        assert_eq!(graph.get_node("a"), Some(&expected));
        assert_eq!(graph.get_node("b"), None);
        assert_eq!(graph.nodes().collect::<Vec<_>>(), [&expected]);
    }

    #[test]
    fn neighbours_are_listed_both_ways() {
        let graph = graph(&DIAMOND);

        assert_eq!(graph.dependents("root").unwrap(), ["left", "right"]);
        assert_eq!(graph.dependencies("merge").unwrap(), ["left", "right"]);
        assert_eq!(graph.dependents("merge").unwrap(), Vec::<String>::new());
        assert_eq!(graph.dependents("x"), Err(GraphError::TaskNotFound("x".to_owned())));
    }

    #[test]
    fn a_completed_task_releases_what_waits_for_nothing_else_and_only_once() {
        let mut graph = graph(&DIAMOND);
        assert_eq!(counts(&graph), (4, 0, 1, 3));
        assert_eq!(graph.get_ready_tasks(), ["root"]);

        assert_eq!(graph.mark_completed("root").unwrap(), ["left", "right"]);
        assert_eq!(graph.get_ready_tasks(), ["left", "right"]);
        assert_eq!(counts(&graph), (4, 1, 2, 1));
        assert_eq!(graph.mark_completed("left").unwrap(), Vec::<String>::new());
        assert_eq!(graph.mark_completed("left").unwrap(), Vec::<String>::new());
        assert_eq!(
            graph.mark_completed("merge").unwrap_err().to_string(),
            "`merge` still depends on `right`"
        );
        assert_eq!(graph.mark_completed("right").unwrap(), ["merge"]);
        assert_eq!(graph.mark_completed("merge").unwrap(), Vec::<String>::new());
        assert_eq!(counts(&graph), (4, 4, 0, 0));
        assert_eq!(graph.mark_completed("x"), Err(GraphError::TaskNotFound("x".to_owned())));

        graph.reset();
        assert_eq!(counts(&graph), (4, 0, 1, 3));
        assert_eq!(graph.get_ready_tasks(), ["root"]);
    }

    #[test]
    fn a_plan_does_not_change_with_what_is_completed() {
        let mut graph = graph(&DIAMOND);
        let before = graph.create_execution_plan().unwrap();

        graph.mark_completed("root").unwrap();

        assert_eq!(graph.create_execution_plan().unwrap(), before);
    }

    #[test]
    fn a_dependency_may_follow_and_must_in_the_end() {
        let mut graph = graph(&[("child", &["parent"]), ("other", &[])]);

        assert_eq!(graph.get_ready_tasks(), ["other"]);
        assert!(!graph.is_valid());
        assert_eq!(
            graph.validate().unwrap_err().to_string(),
            "`child` depends on `parent`, which is not in the graph"
        );
        assert_eq!(
            graph.mark_completed("child").unwrap_err().to_string(),
            "`child` still depends on `parent`"
        );

        graph.add_node(TaskNode::new("parent", "work")).unwrap();
        assert!(graph.is_valid());
        assert_eq!(graph.mark_completed("parent").unwrap(), ["child"]);
        // What is completed already keeps nobody waiting.
        graph
            .add_node(TaskNode::new("late", "work").depends_on(["parent"]))
            .unwrap();
        assert_eq!(graph.get_ready_tasks(), ["child", "other", "late"]);
    }

    #[test]
    fn what_can_never_run_is_named() {
        for (nodes, message) in [
            (&[("a", &["a"][..])][..], "`a` depends on itself: a → a"),
            (
                &[("x", &["a"]), ("a", &["b"]), ("b", &["a"])],
                "`a` depends on itself: a → b → a",
            ),
            (
                &[("a", &["c"]), ("b", &["a"]), ("c", &["b"])],
                "`a` depends on itself: a → c → b → a",
            ),
        ] {
            assert_eq!(graph(nodes).validate().unwrap_err().to_string(), message);
        }
        let mut twice = graph(&[("a", &[])]);
        let refused = twice.add_node(TaskNode::new("a", "other")).unwrap_err();
        assert_eq!(refused.to_string(), "`a` is in the graph already");
        assert_eq!(twice.get_node("a").unwrap().name, "work");
    }

    #[test]
    fn a_long_ring_is_said_in_short() {
        let names: Vec<_> = (0..100).map(|number| format!("t{number}")).collect();
        let mut ring = DependencyGraph::new();
        for (place, name) in names.iter().enumerate() {
            let next = names[(place + 1) % names.len()].clone();
            ring.add_node(TaskNode::new(name, "work").depends_on([next])).unwrap();
        }

        let error = ring.create_execution_plan().unwrap_err();

        assert_eq!(
            error.to_string(),
            "`t0` depends on itself: t0 → t1 → t2 → t3 → t4 → t5 → t6 → t7 → … 92 more … → t0"
        );
        let GraphError::CyclicDependency { cycle } = error else {
            panic!("not a ring")
        };
        assert_eq!((cycle.len(), cycle.first()), (101, cycle.last()));
    }

    #[test]
    fn more_than_five_levels_bring_a_warning() {
        let chain = |length: usize| {
            let mut graph = DependencyGraph::new();
            for number in 0..length {
                let before = number.checked_sub(1).map(|before| before.to_string());
                let node = TaskNode::new(number.to_string(), "work").depends_on(before);
                graph.add_node(node).unwrap();
            }
            graph.create_execution_plan().unwrap()
        };

        assert_eq!(chain(5).warnings, Vec::<String>::new());
        assert_eq!(
            chain(6).warnings,
            ["the longest chain has 6 levels; at most 5 are advised"]
        );
        let deep = chain(10_000);
        assert_eq!(
            (deep.levels, deep.max_parallel_tasks, deep.total_tasks),
            (10_000, 1, 10_000)
        );
    }

    proptest! {
        #[test]
        fn completing_releases_what_a_naive_look_finds_ready(
            edges in prop::collection::vec((0_u32..12, 0_u32..12), 0..30),
            order in Just((0_u32..12).collect::<Vec<_>>()).prop_shuffle(),
            done in prop::collection::vec(0_u32..12, 0..40),
        ) {
            let mut depends: BTreeMap<String, BTreeSet<String>> =
                (0..12).map(|place| (format!("t{place}"), BTreeSet::new())).collect();
            for (from, to) in edges {
                if to < from {
                    depends.get_mut(&format!("t{from}")).unwrap().insert(format!("t{to}"));
                }
            }
            let mut graph = DependencyGraph::new();
            for place in &order {
                let name = format!("t{place}");
                graph.add_node(TaskNode::new(&name, "work").depends_on(depends[&name].clone())).unwrap();
            }
            let mut completed: BTreeSet<String> = BTreeSet::new();
            let ready = |completed: &BTreeSet<String>| -> BTreeSet<String> {
                let free = |name: &&String| !completed.contains(*name) && depends[*name].is_subset(completed);
                depends.keys().filter(free).cloned().collect()
            };
            for name in done.iter().map(|place| format!("t{place}")) {
                let before = ready(&completed);
                match graph.mark_completed(&name) {
                    Ok(released) => {
                        prop_assert!(completed.contains(&name) || before.contains(&name));
                        completed.insert(name.clone());
                        let expected: BTreeSet<_> = ready(&completed).difference(&before).cloned().collect();
                        prop_assert_eq!(released.len(), expected.len());
                        prop_assert_eq!(released.into_iter().collect::<BTreeSet<_>>(), expected);
                    }
                    Err(GraphError::DependencyNotSatisfied { waits_for, .. }) => {
                        let expected: Vec<_> = depends[&name].difference(&completed).cloned().collect();
                        prop_assert_eq!(waits_for, expected);
                    }
                    Err(other) => prop_assert!(false, "{other}"),
                }
                prop_assert_eq!(graph.get_ready_tasks().into_iter().collect::<BTreeSet<_>>(), ready(&completed));
                prop_assert_eq!(graph.statistics().completed, completed.len());
            }
        }
    }
}
