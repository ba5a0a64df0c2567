//! What `tilewright bench`, `tilewright report` and `cargo bench` measure, and how.
//!
//! | module | what |
//! |---|---|
//! | `case` | a case: a kernel, its type, its shape; its inputs, its work and how to run it |
//! | `registry` | all cases: shapes of the models, squares, skinny and tiny ones |
//! | `limit` | what the machine can do at best, and the bound that it sets for a case |
//! | `measure` | samples of a case and of its peers, in turns |
//! | `statistics` | medians, their confidence intervals, the test for a difference |
//! | [`record`] | the result: rows, machine, as JSON |
//! | `baseline` | results kept and compared with |
//! | [`html`] | results as a page |

pub mod html;
pub mod record;
