//! Keeps the threads of a pool awake between kernels that follow each other closely.
//!
//! A model that continues a text runs hundreds of products a token, each for some ten microseconds. Threads
//! of rayon fall asleep in between, and waking one takes longer than such a product does. So a call that
//! uses threads asks the others to look for work, on and on, for [`AWAKE`] after it: two threads decode up
//! to half as fast again. Whatever work the pool has meanwhile, ours or not, they do. To ask, which happens
//! about once in [`STRETCH`], is what kernels on several threads allocate for.

use core::cell::{Cell, RefCell};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// How long threads look for work after a call: a few times what models do between two products that are
/// shared out.
const AWAKE: Duration = Duration::from_micros(100);

/// How long at a stretch, however many calls follow: below a look there may be work of the thread's own, such
/// as what comes after a wait that is over.
const STRETCH: Duration = Duration::from_millis(1);

/// Pauses between two looks, for those who look at the same queues.
const PAUSES: usize = 8;

/// State that a calling thread shares with the threads that it keeps awake.
#[derive(Default)]
struct Watch {
    /// When they may sleep, in nanoseconds of [`now`].
    until: AtomicU64,
    /// How many are awake for it.
    awake: AtomicUsize,
}

thread_local! {
    /// This thread's, and when the last that it asked may sleep if it asks no more.
    static MINE: RefCell<(Arc<Watch>, u64)> = RefCell::default();
    /// True if this thread calls, computes, or is awake for another.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Nanoseconds since some instant.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
}

/// While there is one, its thread is busy.
pub(super) struct Busy {
    before: bool,
}

impl Busy {
    pub fn new() -> Self {
        Self { before: BUSY.replace(true) }
    }

    /// Calls `f` on a busy thread.
    pub fn with(f: impl FnOnce()) {
        let _busy = Self::new();
        f();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(self.before);
    }
}

/// Keeps the other threads of the pool awake for a while, unless this one is busy: then it is a part of
/// some call, whose threads are awake.
pub(super) fn keep(threads: usize) {
    if BUSY.get() {
        return;
    }
    MINE.with_borrow_mut(|(watch, asked)| {
        let now = now();
        let until = now + AWAKE.as_nanos() as u64;
        watch.until.store(until, SeqCst);
        if watch.awake.load(SeqCst) + 1 >= threads || now < *asked {
            return;
        }
        *asked = until;
        let watch = Arc::clone(watch);
        rayon::spawn_broadcast(move |_| {
            if !BUSY.get() {
                Busy::with(|| watch.look());
            }
        });
    });
}

impl Watch {
    /// Does what there is to do until it may sleep.
    fn look(&self) {
        let end = now() + STRETCH.as_nanos() as u64;
        let looks = || now() < end.min(self.until.load(SeqCst));
        while looks() {
            self.awake.fetch_add(1, SeqCst);
            while looks() {
                rayon::yield_now();
                (0..PAUSES).for_each(|_| spin_loop());
            }
            // Its caller may count on this thread until here: so it looks once more.
            self.awake.fetch_sub(1, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MINE, keep};
    use std::sync::Arc;
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::{Duration, Instant};

    /// The other thread of a pool wakes up, and sleeps again once nobody asks any more.
    #[test]
    fn others_stay_awake_for_a_while() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
        pool.install(|| {
            let watch = MINE.with_borrow(|(watch, _)| Arc::clone(watch));
            let start = Instant::now();
            for awake in [1, 0] {
                while watch.awake.load(SeqCst) != awake {
                    if awake == 1 {
                        keep(2);
                    }
                    assert!(start.elapsed() < Duration::from_secs(60), "{awake} threads are never awake");
                    std::thread::yield_now();
                }
            }
        });
    }
}
