//! Puts what depends on each other in order, layer by layer (Kahn's algorithm).
//!
//! Works on places, 0 to `n`, so that it knows nothing of names: graphs, workflows and sagas all come here with the
//! places of what each one depends on. Linear in nodes and edges, without recursion: a chain of any length takes the same
//! stack.

/// The nodes, by how many links their longest chain of dependencies has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layers {
    /// The places, layer by layer, in a layer from the lowest up.
    order: Vec<u32>,
    /// Where in `order` each layer ends.
    ends: Vec<usize>,
}

/// Some depend on each other in a ring: each of these on the next, the last on the first. The lowest place is first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ring(pub(super) Vec<u32>);

impl Layers {
    /// Sorts `count` nodes, of which each depends on those at `dependencies(place)`. One may be named twice.
    ///
    /// # Errors
    /// [`Ring`], one of them, always the same for the same input.
    pub(super) fn new<'d>(count: usize, dependencies: impl Fn(usize) -> &'d [u32]) -> Result<Self, Ring> {
        let mut open: Vec<u32> = Vec::with_capacity(count);
        let mut starts = vec![0_usize; count + 1];
        for place in 0..count {
            let needed = dependencies(place);
            open.push(u32::try_from(needed.len()).unwrap_or(u32::MAX));
            for &on in needed {
                starts[on as usize + 1] += 1;
            }
        }
        // The dependents of all, one after the other in a single list.
        for place in 0..count {
            starts[place + 1] += starts[place];
        }
        let mut dependents = vec![0_u32; starts[count]];
        let mut filled = starts.clone();
        for place in 0..count {
            for &on in dependencies(place) {
                dependents[filled[on as usize]] = as_place(place);
                filled[on as usize] += 1;
            }
        }

        let mut layer_of = vec![0_usize; count];
        let mut free: Vec<u32> = (0..count).filter(|&place| open[place] == 0).map(as_place).collect();
        let mut next = 0;
        while let Some(&place) = free.get(next) {
            next += 1;
            let place = place as usize;
            for &dependent in &dependents[starts[place]..starts[place + 1]] {
                let dependent_place = dependent as usize;
                layer_of[dependent_place] = layer_of[dependent_place].max(layer_of[place] + 1);
                open[dependent_place] -= 1;
                if open[dependent_place] == 0 {
                    free.push(dependent);
                }
            }
        }
        if free.len() < count {
            return Err(ring(count, &open, &dependencies));
        }
        Ok(Self::gather(&layer_of))
    }

    /// Sorts by layer, and by place within: counted, not compared.
    fn gather(layer_of: &[usize]) -> Self {
        let layers = layer_of.iter().max().map_or(0, |&last| last + 1);
        let mut ends = vec![0_usize; layers];
        for &layer in layer_of {
            ends[layer] += 1;
        }
        let mut sum = 0;
        let mut filled = Vec::with_capacity(layers);
        for end in &mut ends {
            filled.push(sum);
            sum += *end;
            *end = sum;
        }
        let mut order = vec![0_u32; layer_of.len()];
        for (place, &layer) in layer_of.iter().enumerate() {
            order[filled[layer]] = as_place(place);
            filled[layer] += 1;
        }
        Self { order, ends }
    }

    /// Every place, those that others depend on before them.
    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    /// The layers: those of one do not depend on each other.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.order[start..end])
    }
}

/// What is left with open dependencies depends on something that is left as well: whoever follows these comes around.
fn ring<'d>(count: usize, open: &[u32], dependencies: &impl Fn(usize) -> &'d [u32]) -> Ring {
    let is_left = |place: usize| open[place] > 0;
    let mut path: Vec<u32> = Vec::new();
    let mut seen_at = vec![usize::MAX; count];
    let mut place = (0..count).find(|&place| is_left(place)).unwrap_or(0);
    while seen_at[place] == usize::MAX {
        seen_at[place] = path.len();
        path.push(as_place(place));
        let needed = dependencies(place).iter().map(|&on| on as usize);
        place = needed.into_iter().find(|&on| is_left(on)).unwrap_or(place);
    }
    path.drain(..seen_at[place]);
    let lowest = (0..path.len()).min_by_key(|&at| path[at]).unwrap_or(0);
    path.rotate_left(lowest);
    Ring(path)
}

/// A place as it is kept.
pub(super) fn as_place(place: usize) -> u32 {
    u32::try_from(place).expect("there are fewer than 2^32 nodes, they would not fit into memory")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layered(dependencies: &[&[u32]]) -> Result<Vec<Vec<u32>>, Ring> {
        let layers = Layers::new(dependencies.len(), |place| dependencies[place])?;
        Ok(layers.iter().map(<[u32]>::to_vec).collect())
    }

    #[test]
    fn each_node_lies_as_deep_as_its_longest_chain() {
        assert_eq!(layered(&[]), Ok(vec![]));
        assert_eq!(layered(&[&[], &[]]), Ok(vec![vec![0, 1]]));
        assert_eq!(
            layered(&[&[3], &[3], &[0, 1], &[]]),
            Ok(vec![vec![3], vec![0, 1], vec![2]])
        );
        assert_eq!(
            layered(&[&[], &[0], &[0, 1], &[0, 0]]),
            Ok(vec![vec![0], vec![1, 3], vec![2]])
        );
    }

    #[test]
    fn a_ring_is_shown_from_its_lowest_place_on() {
        assert_eq!(layered(&[&[0]]), Err(Ring(vec![0])));
        assert_eq!(layered(&[&[1], &[2], &[3], &[1]]), Err(Ring(vec![1, 2, 3])));
        assert_eq!(layered(&[&[], &[0], &[4], &[1], &[3, 2]]), Err(Ring(vec![2, 4])));
    }

    /// Removes what is free until nothing is, looking at everything each time.
    fn naive(dependencies: &[Vec<u32>]) -> Option<Vec<Vec<u32>>> {
        let mut left: Vec<u32> = (0..).take(dependencies.len()).collect();
        let mut layers = Vec::new();
        while !left.is_empty() {
            let needed = |place: &u32| &dependencies[*place as usize];
            let (free, rest): (Vec<_>, Vec<_>) = left
                .iter()
                .partition(|place| needed(place).iter().all(|on| !left.contains(on)));
            if free.is_empty() {
                return None;
            }
            layers.push(free);
            left = rest;
        }
        Some(layers)
    }

    proptest! {
        #[test]
        fn the_layers_are_those_of_a_naive_search(
            edges in (1_u32..16).prop_flat_map(|count| (
                Just(count as usize),
                prop::collection::vec((0..count, 0..count), 0..24),
                any::<bool>(),
            )),
        ) {
            let (count, edges, is_downward) = edges;
            let mut dependencies = vec![Vec::new(); count];
            for (from, to) in edges {
                // Half of the graphs have no ring for sure.
                if !is_downward || to < from {
                    dependencies[from as usize].push(to);
                }
            }

            let layers = Layers::new(count, |place| &dependencies[place]);

            match (layers, naive(&dependencies)) {
                (Ok(layers), Some(expected)) => {
                    prop_assert_eq!(layers.iter().map(<[u32]>::to_vec).collect::<Vec<_>>(), expected.clone());
                    prop_assert_eq!(layers.order().to_vec(), expected.concat());
                }
                (Err(Ring(ring)), None) => {
                    prop_assert!(!ring.is_empty());
                    prop_assert_eq!(ring.iter().min(), ring.first());
                    for (at, place) in ring.iter().enumerate() {
                        let next = ring[(at + 1) % ring.len()];
                        prop_assert!(dependencies[*place as usize].contains(&next));
                        prop_assert!(!ring[..at].contains(place));
                    }
                }
                (layers, expected) => prop_assert!(false, "{layers:?} instead of {expected:?}"),
            }
        }
    }
}
