//! Learning rates of the steps of a run.
//!
//! ```text
//! warm-up     lr s / warmup, for steps s = 1 .. warmup
//! then        constant    lr
//!             linear      lr (steps - s) / (steps - warmup)
//!             cosine      lr (floor + (1 - floor) (1 + cos(pi x)) / 2),  x = (s - warmup) / (steps - warmup)
//!             wsd         lr, and linear to 0 in the last `decay` steps
//! ```

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// The peak rate to the end.
    Constant,
    /// Linear to 0: BERT, RoBERTa.
    Linear,
    /// Half a cosine to this share of the peak rate: GPT-2 as nanoGPT trains it, LLaMA.
    Cosine(f64),
    /// Warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395): linear to 0 in this number of last steps.
    WarmupStableDecay(u64),
}

/// Learning rate by step.
///
/// ```
/// use tilewright::train::{Decay, Schedule};
/// let schedule = Schedule { peak: 1e-3, warmup: 2, steps: 6, decay: Decay::Linear };
/// let rates: Vec<f64> = (1..=6).map(|step| schedule.rate(step)).collect();
/// assert_eq!(rates, [5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4, 0.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Largest rate.
    pub peak: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Shape after the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// Rate of step `step`, counted from 1.
    pub fn rate(&self, step: u64) -> f64 {
        let Self { peak, warmup, steps, decay } = *self;
        if step < warmup {
            return peak * step as f64 / warmup as f64;
        }
        let after = steps.saturating_sub(warmup).max(1) as f64;
        let left = steps.saturating_sub(step) as f64;
        match decay {
            Decay::Constant => peak,
            Decay::Linear => peak * left / after,
            Decay::Cosine(floor) => {
                let x = (step - warmup) as f64 / after;
                peak * (floor + (1.0 - floor) * (1.0 + (core::f64::consts::PI * x.min(1.0)).cos()) / 2.0)
            }
            Decay::WarmupStableDecay(last) => peak * (left / last.max(1) as f64).min(1.0),
        }
    }
}
