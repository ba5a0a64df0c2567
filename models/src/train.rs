//! Training.
//!
//! | item | content |
//! |---|---|
//! | [`data`] | corpora of tokens |
//! | [`objectives`] | pre-training recipes: from documents to examples |
//! | [`random`] | random numbers as a function of seed, epoch and index |

pub mod data;
pub mod objectives;
pub mod random;
