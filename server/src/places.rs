//! Bounds on what may be open at a time, where the oldest makes room for a newcomer.

use crate::sync::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

type Open<K> = BTreeMap<K, BTreeMap<u64, oneshot::Sender<()>>>;

#[derive(Debug)]
struct Inner<K> {
    last: u64,
    open: Open<K>,
}

/// At most so many places for each key.
#[derive(Debug)]
pub(crate) struct Places<K> {
    most: usize,
    inner: Mutex<Inner<K>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Ord> {
    places: Arc<Places<K>>,
    key: K,
    id: u64,
}

/// Tells the holder of a place to go.
pub(crate) type Leave = oneshot::Receiver<()>;

impl<K: Ord + Clone> Places<K> {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), inner: Mutex::new(Inner { last: 0, open: BTreeMap::new() }) })
    }

    /// Takes a place. If all are taken, the oldest is told to go.
    pub(crate) fn take(self: &Arc<Self>, key: K) -> (Place<K>, Leave) {
        let (tell, leave) = oneshot::channel();
        let mut inner = lock(&self.inner);
        inner.last += 1;
        let id = inner.last;
        let open = inner.open.entry(key.clone()).or_default();
        if open.len() >= self.most
            && let Some((_, oldest)) = open.pop_first()
        {
            // it may be on its way out by itself
            let _ = oldest.send(());
        }
        open.insert(id, tell);
        drop(inner);
        (Place { places: self.clone(), key, id }, leave)
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut inner = lock(&self.places.inner);
        if let Some(open) = inner.open.get_mut(&self.key) {
            open.remove(&self.id);
            if open.is_empty() {
                inner.open.remove(&self.key);
            }
        }
    }
}

/// Waits until the holder of a place is told to go; for ever if the place is given back first.
pub(crate) async fn told(leave: Leave) {
    if leave.await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_places_come_back() {
        let places = Places::new(2);
        let (first, mut leave_first) = places.take("a");
        let (second, mut leave_second) = places.take("a");
        let (other, mut leave_other) = places.take("b");
        assert!(leave_first.try_recv().is_err());
        let (_third, mut leave_third) = places.take("a");
        assert_eq!(leave_first.try_recv(), Ok(()));
        // gone already: it takes no place from anybody
        drop(first);
        drop(second);
        let (_fourth, mut leave_fourth) = places.take("a");
        assert!(leave_third.try_recv().is_err() && leave_second.try_recv().is_err(), "given back, not told to go");
        assert!(leave_fourth.try_recv().is_err() && leave_other.try_recv().is_err());
        assert_eq!(lock(&places.inner).open.len(), 2);
        drop(other);
        assert_eq!(lock(&places.inner).open.len(), 1, "a key without places is forgotten");
    }
}
