//! Handles: numbers that stand for objects.
//!
//! A number is given once and never again, and one counter serves every kind of object, so that a
//! handle that was freed, or is of another kind, is not found. A call holds its object while it runs;
//! freeing only forgets the number.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Distance of two numbers: aligned as addresses would be, should a language look at that.
const STEP: usize = 16;

static NEXT: AtomicUsize = AtomicUsize::new(STEP);

/// The live objects of one kind; `H` is the type that its handles point to.
pub(super) struct Registry<H, T> {
    live: Mutex<BTreeMap<usize, Arc<T>>>,
    handle: PhantomData<fn() -> H>,
}

impl<H, T> Registry<H, T> {
    pub(super) const fn new() -> Self {
        Self { live: Mutex::new(BTreeMap::new()), handle: PhantomData }
    }

    /// A handle for an object.
    pub(super) fn insert(&self, object: T) -> *mut H {
        let next = |number: usize| number.checked_add(STEP);
        let number = NEXT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .expect("a process of 32 bits has 268 million handles; the guard makes this an error");
        self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(object));
        ptr::without_provenance_mut(number)
    }

    /// The object of a handle, if it lives.
    pub(super) fn get(&self, handle: *const H) -> Option<Arc<T>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get(&handle.addr()).cloned()
    }

    /// Forgets a handle.
    pub(super) fn remove(&self, handle: *const H) {
        let object =
            self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.addr());
        // Dropped without the lock.
        drop(object);
    }
}
