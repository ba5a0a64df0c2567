//! Sessions: the tile configuration stays from one assembly block to the next.
//!
//! The loads of a tile wait for `ldtilecfg`: a tenth of the samples in the microkernel of bf16, where each block configured
//! its tiles (Sapphire Rapids). Outside of a session each block configures and releases the tiles, because other libraries may use
//! them.

use super::Amx;
use core::arch::asm;
use core::marker::PhantomData;
use std::cell::Cell;

/// State of the tiles between two assembly blocks of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Released, and no session.
    Outside,
    /// Released, in a session.
    Released,
    /// Configured by this session for tiles of this height.
    Configured(usize),
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Outside) };
}

/// A session of this thread; its end releases the tiles. A session inside of another one changes nothing.
#[derive(Debug)]
pub struct TileSession {
    outermost: bool,
    /// A session belongs to its thread.
    not_send: PhantomData<*const ()>,
}

impl Amx {
    /// Starts a session.
    #[inline(always)]
    pub fn session(self) -> TileSession {
        let outermost = STATE.get() == State::Outside;
        if outermost {
            STATE.set(State::Released);
        }
        TileSession { outermost, not_send: PhantomData }
    }
}

impl Drop for TileSession {
    #[inline(always)]
    fn drop(&mut self) {
        if self.outermost {
            STATE.set(State::Outside);
            // SAFETY: a session comes from an `Amx`, which proves AMX. No code outside of assembly blocks uses tiles.
            unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
        }
    }
}

/// Returns 1 or 0 for each: whether a block of tiles of this height must configure the tiles, and release them.
#[inline(always)]
pub(super) fn configure(height: usize) -> [usize; 2] {
    match STATE.get() {
        State::Outside => [1, 1],
        State::Configured(configured) if configured == height => [0, 0],
        _ => {
            STATE.set(State::Configured(height));
            [1, 0]
        }
    }
}
