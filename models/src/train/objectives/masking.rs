//! Masking: which copy of the masks an epoch sees, how many tokens are predicted, and their replacement.

use super::settings::refuse;
use super::{Example, IGNORED};
use crate::error::Error;
use crate::train::random::Draws;

/// Masks of successive epochs.
///
/// ```
/// use tilewright::train::objectives::Masking;
/// assert_eq!("copies=10".parse::<Masking>()?, Masking::Copies(10));
/// # Ok::<(), tilewright::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masking {
    /// One mask for ever.
    Static,
    /// This many masks in turn: BERT masks copies of its corpus once. 40 epochs of 10 copies see each mask 4 times.
    Copies(u32),
    /// Another mask in each epoch.
    Dynamic,
}

impl Masking {
    /// Number of the mask that an epoch sees.
    pub(super) fn copy(self, epoch: u32) -> u32 {
        match self {
            Self::Static => 0,
            Self::Copies(n) => epoch % n.max(1),
            Self::Dynamic => epoch,
        }
    }

    pub(super) fn check(self) -> Result<(), Error> {
        match self {
            Self::Copies(0) => refuse("masking", "expected at least 1 copy, found 0".into()),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Masking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Static => f.write_str("static"),
            Self::Copies(n) => write!(f, "copies={n}"),
            Self::Dynamic => f.write_str("dynamic"),
        }
    }
}

impl std::str::FromStr for Masking {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = match text {
            "static" => Some(Self::Static),
            "dynamic" => Some(Self::Dynamic),
            _ => text.strip_prefix("copies=").and_then(|n| n.parse().ok()).map(Self::Copies),
        };
        let why = || format!("expected static, copies=N or dynamic, found {text:?}");
        found.map_or_else(|| refuse("masking", why()), |masking| masking.check().map(|()| masking))
    }
}

/// BERT's number of predictions of a sequence: its length, special tokens included, times p, rounded half to even as by
/// Python; at least 1 and at most `most`.
pub(super) fn predictions(tokens: usize, p: f64, most: usize) -> usize {
    ((tokens as f64 * p).round_ties_even() as usize).max(1).min(most)
}

/// BERT's replacement of a predicted token: 80% the mask, 10% the token itself, 10% a token that `random` draws.
pub(super) fn replace(
    token: u32,
    mask: u32,
    draws: &mut Draws,
    random: impl FnOnce(&mut Draws) -> u32,
) -> u32 {
    if draws.chance(0.8) {
        mask
    } else if draws.chance(0.5) {
        token
    } else {
        random(draws)
    }
}

/// Sets the labels: the token at each of `positions`, [`IGNORED`] elsewhere. `ids` are still unmasked.
pub(super) fn label(example: &mut Example, positions: &[usize]) {
    example.labels.resize(example.ids.len(), IGNORED);
    for &i in positions {
        example.labels[i] = i64::from(example.ids[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_half_to_even() {
        // Python: round(10 * .15) is 2, round(30 * .15) is 4, round(50 * .15) is 8.
        let found = [10, 30, 50, 1, 3, 4, 1000].map(|n| predictions(n, 0.15, 20));
        assert_eq!(found, [2, 4, 8, 1, 1, 1, 20]);
    }

    #[test]
    fn epochs_take_copies_in_turn() {
        let copies = |masking: Masking| [0, 1, 9, 10, 21].map(|epoch| masking.copy(epoch));
        assert_eq!(copies(Masking::Static), [0; 5]);
        assert_eq!(copies(Masking::Copies(10)), [0, 1, 9, 0, 1]);
        assert_eq!(copies(Masking::Dynamic), [0, 1, 9, 10, 21]);
    }

    #[test]
    fn names_parse() {
        for masking in [Masking::Static, Masking::Copies(3), Masking::Dynamic] {
            assert_eq!(masking.to_string().parse::<Masking>().unwrap(), masking);
        }
        for wrong in ["", "copies", "copies=", "copies=-1", "copies=0"] {
            let error = wrong.parse::<Masking>().unwrap_err().to_string();
            assert!(error.starts_with("masking: expected"), "{error}");
        }
    }
}
