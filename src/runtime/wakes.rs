//! Wakes loops by partition: what rings in one must not wake another's loop instead.

use tokio::sync::Notify;

use crate::domain::id::Partition;

/// Something that can ring in each partition.
pub(crate) struct Wakes {
    by_partition: Vec<Notify>,
    any: Notify,
}

impl Wakes {
    /// Nothing has rung in so many partitions.
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            by_partition: (0..partitions).map(|_| Notify::new()).collect(),
            any: Notify::new(),
        }
    }

    /// Wakes the loop of a partition, or lets its next wait end at once.
    pub(crate) fn ring(&self, partition: Partition) {
        if let Some(notify) = self.by_partition.get(usize::from(partition.number())) {
            notify.notify_one();
        }
        self.any.notify_one();
    }

    /// Waits until it rings in a partition.
    pub(crate) async fn heard(&self, partition: Partition) {
        match self.by_partition.get(usize::from(partition.number())) {
            Some(notify) => notify.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until it rings in any partition; for the one who waits behind all of them.
    pub(crate) async fn heard_any(&self) {
        self.any.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_ring_wakes_the_loop_of_its_partition_only() {
        let [zero, one] = [0, 1].map(|number| Partition::new(number).unwrap());
        let wakes = Wakes::new(2);

        wakes.ring(one);

        wakes.heard(one).await;
        wakes.heard_any().await;
        let other = tokio::time::timeout(Duration::from_millis(10), wakes.heard(zero)).await;
        assert!(other.is_err());
    }
}
