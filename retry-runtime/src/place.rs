//! What the calls of one function on one pool share: what is learned of them, and what they wait for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::damper::Damper;
use crate::queue::Queues;

/// With how many pools a function makes room, for the next one.
const MANY: usize = 64;

/// Of one pool, or of all clients that come without one.
#[derive(Debug)]
pub(crate) struct Place {
    /// `None`: calls are not damped.
    pub(crate) damper: Option<Damper>,
    pub(crate) queues: Arc<Queues>,
}

impl Place {
    /// For how much longer calls go one at a time, if they do.
    pub(crate) fn shut_for(&self) -> Option<std::time::Duration> {
        self.damper.as_ref().and_then(Damper::shut_for)
    }
}

/// A function's places, by [`Pool::id`](crate::Pool::id).
#[derive(Debug)]
pub(crate) struct Places(Mutex<BTreeMap<Option<usize>, Arc<Place>>>);

impl Places {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The place of a pool, or of the clients without one (`None`), which are never damped.
    pub(crate) fn of(&self, pool: Option<usize>, damping: bool) -> Arc<Place> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(&pool) {
            return place.clone();
        }
        if places.len() >= MANY {
            // A pool may be long gone. What was learned of it is soon learned again.
            places.retain(|_, place| Arc::strong_count(place) > 1 || place.shut_for().is_some());
        }
        let damper = (damping && pool.is_some()).then(Damper::new);
        let place = Arc::new(Place { damper, queues: Arc::default() });
        places.insert(pool, place.clone());
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pool_has_its_place() {
        let places = Places::new();
        let place = places.of(Some(1), true);
        assert!(Arc::ptr_eq(&place, &places.of(Some(1), true)));
        assert!(!Arc::ptr_eq(&place, &places.of(Some(2), true)));
        assert!(place.damper.is_some());
        assert!(places.of(None, true).damper.is_none());
        assert!(Places::new().of(Some(1), false).damper.is_none());
    }

    #[test]
    fn only_what_matters_is_kept_of_many_pools() {
        let places = Places::new();
        let used = places.of(Some(0), true);
        let damper_of = |pool| places.of(Some(pool), true);
        let lap = damper_of(1).damper.as_ref().map(|damper| damper.begin(false)).expect("it is damped");
        std::thread::sleep(std::time::Duration::from_millis(20));
        damper_of(1).damper.as_ref().and_then(|damper| damper.deadlocked(lap)).expect("it shuts");
        for pool in 2..10_000 {
            places.of(Some(pool), true);
            assert!(places.0.lock().expect("no test has failed").len() <= MANY);
        }
        assert!(Arc::ptr_eq(&used, &places.of(Some(0), true)), "it is in use");
    }
}
