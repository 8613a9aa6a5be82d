//! The free slots of a replica: how many tasks it may run at once, by number.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// The numbers of the slots that are free.
pub(crate) struct Slots {
    free: Mutex<Vec<u16>>,
    some_free: Notify,
    size: u16,
}

impl Slots {
    /// `size` free slots, numbered from 0.
    pub(crate) fn new(size: u16) -> Self {
        Self {
            free: Mutex::new((0..size).rev().collect()),
            some_free: Notify::new(),
            size,
        }
    }

    /// How many slots there are.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<u16>> {
        // The list is consistent at every step, so a panic elsewhere does not spoil it.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that are free right now, the lowest first.
    pub(crate) fn take_all(&self) -> Vec<u16> {
        let mut taken = std::mem::take(&mut *self.free());
        taken.reverse();
        taken
    }

    /// Takes one, if one is free.
    pub(crate) fn take_one(&self) -> Option<u16> {
        self.free().pop()
    }

    /// Takes this one, if it is free.
    pub(crate) fn withhold(&self, slot: u16) -> bool {
        let mut free = self.free();
        let place = free.iter().position(|known| *known == slot);
        place.map(|place| free.remove(place)).is_some()
    }

    /// Waits until at least one is free and takes all.
    pub(crate) async fn take_some(&self) -> Vec<u16> {
        loop {
            let taken = self.take_all();
            if !taken.is_empty() {
                return taken;
            }
            // A permit is kept when nobody waits, so a slot that comes free in between is not missed.
            self.some_free.notified().await;
        }
    }

    /// Gives slots back.
    pub(crate) fn give_back(&self, slots: impl IntoIterator<Item = u16>) {
        let mut free = self.free();
        let before = free.len();
        free.extend(slots);
        if free.len() > before {
            free.sort_unstable_by(|a, b| b.cmp(a));
            drop(free);
            self.some_free.notify_one();
        }
    }

    /// How many are busy.
    pub(crate) fn busy(&self) -> u16 {
        self.size
            .saturating_sub(u16::try_from(self.free().len()).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slot_given_back_wakes_who_waits() {
        let slots = std::sync::Arc::new(Slots::new(2));
        assert_eq!(slots.take_some().await, [0, 1]);
        assert_eq!(slots.busy(), 2);

        let waiting = tokio::spawn({
            let slots = std::sync::Arc::clone(&slots);
            async move { slots.take_some().await }
        });
        tokio::task::yield_now().await;
        slots.give_back([1]);

        assert_eq!(waiting.await.unwrap(), [1]);
    }
}
