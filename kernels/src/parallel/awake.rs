//! Keeps the threads of a pool awake between kernels that follow each other closely.
//!
//! A decoder runs hundreds of products a token, each for some ten microseconds. Threads of rayon fall asleep between
//! them, and waking a thread takes longer than a product. So a call on several threads asks the other threads to poll for
//! work until [`AWAKE`] after the call: two threads decode up to 1.5 times as fast. A polling thread runs any work of the
//! pool. Kernels on several threads allocate only for this request, about once in [`STRETCH`].

use core::cell::{Cell, RefCell};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Time that threads poll for work after a call: a few times the time that models take between two parallel products.
const AWAKE: Duration = Duration::from_micros(100);

/// Maximum time of one polling loop, however many calls follow. The loop may run on the stack
/// above the thread's own work, such as a `join` whose wait is over: it must not delay that work for longer.
const STRETCH: Duration = Duration::from_millis(1);

/// Spin-loop hints between two polls: they leave the queues to the threads that poll them too.
const PAUSES: usize = 8;

/// State that a calling thread shares with the threads it keeps awake.
#[derive(Default)]
struct Watch {
    /// Time until which the threads poll, in nanoseconds of [`now`].
    until: AtomicU64,
    /// Number of threads that poll for the calling thread.
    awake: AtomicUsize,
}

thread_local! {
    /// This thread's state, and the time until which the last request lets threads poll if no call follows.
    static MINE: RefCell<(Arc<Watch>, u64)> = RefCell::default();
    /// True if this thread calls, computes, or polls for another thread.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Nanoseconds since the first call.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
}

/// Marks its thread as busy while it lives.
pub(super) struct BusyGuard {
    /// State to restore.
    before: bool,
}

impl BusyGuard {
    pub fn new() -> Self {
        Self { before: BUSY.replace(true) }
    }

    /// Calls `f` on a busy thread.
    pub fn with(f: impl FnOnce()) {
        let _busy = Self::new();
        f();
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        BUSY.set(self.before);
    }
}

/// Keeps the other threads of the pool awake for [`AWAKE`]. A busy thread does nothing: it is part of a call that keeps
/// its threads awake.
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
                BusyGuard::with(|| watch.poll());
            }
        });
    });
}

impl Watch {
    /// Runs work of the pool until the thread may sleep.
    fn poll(&self) {
        let end = now() + STRETCH.as_nanos() as u64;
        let continues = || now() < end.min(self.until.load(SeqCst));
        while continues() {
            self.awake.fetch_add(1, SeqCst);
            while continues() {
                rayon::yield_now();
                (0..PAUSES).for_each(|_| spin_loop());
            }
            // The caller may have counted on this thread until now: check `until` once more.
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

    /// The other thread of a pool wakes up on request, and sleeps again after the last request.
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
