//! Ties named nodes to what they name: the tasks of a workflow and the steps of a saga.
//!
//! A list comes as its sender wrote it, in any order and with any mistake. What comes out are places instead of names,
//! and an order in which everything stands behind what it depends on; or the problems, each with its path.

use std::collections::HashMap;

use super::id::Name;
use super::layers::{Layers, Ring};
use super::payload::nearest;
use super::rejection::{Problems, Reason};

/// How the nodes and their fields are called where they came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vocabulary {
    /// The field with the nodes, as `tasks`.
    pub(super) list: &'static str,
    /// The field with a node's name.
    pub(super) name: &'static str,
    /// The field with what it depends on.
    pub(super) dependencies: &'static str,
    /// What a node is, with its whole: `task of this workflow`.
    pub(super) node: &'static str,
}

/// A node as it was named.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) name: &'a Name,
    /// None twice.
    pub(super) dependencies: &'a [Name],
}

/// Nodes in an order in which each stands behind what it depends on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Links {
    /// The places in the list as it came: as they were if that will do, else layer by layer.
    pub(super) order: Vec<u32>,
    /// By new place: the new places of what it depends on.
    pub(super) dependencies: Vec<Vec<u32>>,
    /// By new place: whether another depends on it.
    pub(super) has_dependents: Vec<bool>,
}

/// The most dependencies that all nodes of one list can have together.
pub(super) const MAX_DEPENDENCIES: usize = 100_000;

/// Up to so many names are searched for the one that was meant.
const MAX_SEARCHED: usize = 200;

/// Ties the nodes together. `None` after a problem.
pub(super) fn tie(nodes: &[Node<'_>], words: Vocabulary, problems: &mut Problems) -> Option<Links> {
    let places = name_places(nodes, words, problems);
    let mut is_good = places.len() == nodes.len();
    let total: usize = nodes.iter().map(|node| node.dependencies.len()).sum();
    if total > MAX_DEPENDENCIES {
        let message = format!("have {total} dependencies together, must have at most {MAX_DEPENDENCIES}");
        problems.add(Reason::InvalidField, Some(words.list), message);
        is_good = false;
    }
    let mut dependencies: Vec<Vec<u32>> = Vec::with_capacity(nodes.len());
    for (place, node) in nodes.iter().enumerate() {
        let mut tied = Vec::with_capacity(node.dependencies.len());
        for name in node.dependencies {
            if let Some(&on) = places.get(name.as_str()) {
                tied.push(on);
            } else {
                unknown(nodes, place, name, words, problems);
                is_good = false;
            }
        }
        dependencies.push(tied);
    }
    match Layers::new(nodes.len(), |place| &dependencies[place]) {
        Ok(layers) if is_good => Some(Links::new(dependencies, &layers)),
        Ok(_) => None,
        Err(Ring(ring)) => {
            let field = format!("{}[{}].{}", words.list, ring[0], words.dependencies);
            let round = ring.iter().chain(ring.first());
            let cycle = round.map(|&place| nodes[place as usize].name.to_string()).collect();
            problems.add_cycle(&field, cycle);
            None
        }
    }
}

/// Where each name stands. Of those that come twice the first keeps it.
fn name_places<'a>(nodes: &[Node<'a>], words: Vocabulary, problems: &mut Problems) -> HashMap<&'a str, u32> {
    let mut places = HashMap::with_capacity(nodes.len());
    for (node, place) in nodes.iter().zip(0_u32..) {
        let first = *places.entry(node.name.as_str()).or_insert(place);
        if first != place {
            let field = format!("{}[{place}].{}", words.list, words.name);
            let message = format!("is `{}`, as {}[{first}] is called already", node.name, words.list);
            problems.add(Reason::DuplicateKey, Some(&field), message);
        }
    }
    places
}

fn unknown(nodes: &[Node<'_>], place: usize, name: &Name, words: Vocabulary, problems: &mut Problems) {
    let field = format!("{}[{place}].{}", words.list, words.dependencies);
    let mut message = format!("names `{name}`, which is no {}", words.node);
    if nodes.len() <= MAX_SEARCHED && !problems.is_full() {
        let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
        if let Some(meant) = nearest(name.as_str(), &names) {
            message = format!("{message}; did you mean `{meant}`?");
        }
    }
    problems.add(Reason::InvalidDependency, Some(&field), message);
}

impl Links {
    fn new(dependencies: Vec<Vec<u32>>, layers: &Layers) -> Self {
        let in_order = |(place, on): (u32, &Vec<u32>)| on.iter().all(|&on| on < place);
        let mut has_dependents = vec![false; dependencies.len()];
        if (0_u32..).zip(&dependencies).all(in_order) {
            for &on in dependencies.iter().flatten() {
                has_dependents[on as usize] = true;
            }
            return Self {
                order: (0_u32..).take(dependencies.len()).collect(),
                dependencies,
                has_dependents,
            };
        }
        let order = layers.order().to_vec();
        let mut moved_to = vec![0_u32; order.len()];
        for (&from, to) in order.iter().zip(0_u32..) {
            moved_to[from as usize] = to;
        }
        let moved = order.iter().map(|&from| {
            let on = dependencies[from as usize].iter();
            on.map(|&on| moved_to[on as usize]).collect::<Vec<_>>()
        });
        let moved: Vec<_> = moved.collect();
        for &on in moved.iter().flatten() {
            has_dependents[on as usize] = true;
        }
        Self {
            order,
            dependencies: moved,
            has_dependents,
        }
    }
}
