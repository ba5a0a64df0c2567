//! Cases and measurement of `tilewright bench`, `tilewright report` and `cargo bench`.
//!
//! | module | what |
//! |---|---|
//! | [`case`](mod@case) | a case: an operation, its type and shape, its inputs, its work, how it is run |
//! | [`models`] | models as cases |
//! | [`registry`] | all cases: shapes of the models, squares, skinny and tiny ones |
//! | [`limit`] | what the machine can do at best, and the bound that it sets |
//! | [`measure`] | samples of a case and of other libraries, in turns |
//! | [`bencher`] | what turns a case into a row |
//! | [`statistics`] | the fastest of samples, medians, and how sure they are |
//! | [`record`] | the result, as JSON |
//! | [`baseline`] | results that are kept, and compared with |
//! | [`confirm`] | differences that are seen again, or not |
//! | [`html`], [`markdown`] | results as a page, as tables of Markdown |
//! | [`cpu`], [`probe`](mod@probe) | name and caches of the CPU; its peaks and read bandwidths |
//!
//! ```
//! use tilewright_bench::{bencher::Bencher, case::Dtype, measure::Effort, registry};
//! use tilewright_kernels::Backend;
//! let mut bencher = Bencher::new(Backend::best(), &[1], Effort::QUICK)?;
//! bencher.measure_limits();
//! let case = &registry::linear(&[[32, 64, 64]], Dtype::F32)[0];
//! let row = bencher.row(case, 0, &bencher.measure(case, 0)?);
//! println!("{}: {:.0?} GFLOP/s, {:.2?} of what this machine can do", row.name(), row.gflops, row.bound_fraction);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod baseline;
pub mod bencher;
pub mod case;
pub mod confirm;
pub mod cpu;
pub mod html;
pub mod limit;
pub mod markdown;
pub mod measure;
pub mod models;
pub mod probe;
pub mod record;
pub mod registry;
pub mod statistics;
pub mod work;
