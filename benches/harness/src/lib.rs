//! Cases and measurement of `tilewright bench`, `tilewright report` and `cargo bench`.
//!
//! | module | contents |
//! |---|---|
//! | [`case`](mod@case) | a case: an operation, its type, shape, inputs and work, and the call that runs it |
//! | [`models`] | models as cases |
//! | [`registry`] | all cases: shapes of the models, square, skinny and tiny shapes |
//! | [`limit`] | limits of the machine, and the bound of a case |
//! | [`measure`] | samples of a case on this project and on other libraries, in turns |
//! | [`bencher`] | the bencher, which measures a case and makes its row |
//! | [`statistics`] | the fastest of samples, medians, confidence intervals, tests |
//! | [`record`] | the result, as JSON |
//! | [`baseline`] | saved runs, and comparisons with them |
//! | [`confirm`] | confirmation of differences by further visits |
//! | [`html`], [`markdown`] | results as an HTML page, results as Markdown tables |
//! | [`cpu`], [`probe`](mod@probe) | name and caches of the CPU; its peaks and read bandwidths |
//!
//! ```
//! use tilewright_bench::{bencher::Bencher, case::Dtype, measure::Effort, registry};
//! use tilewright_kernels::Backend;
//! let mut bencher = Bencher::new(Backend::best(), &[1], Effort::QUICK)?;
//! bencher.measure_limits();
//! let case = &registry::linear(&[[32, 64, 64]], Dtype::F32)[0];
//! let row = bencher.row(case, 0, &bencher.measure(case, 0)?);
//! println!("{}: {:.0?} GFLOP/s, {:.2?} of the machine's limit", row.name(), row.gflops, row.bound_fraction);
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
