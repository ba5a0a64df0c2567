//! What `tilewright report` measures.

use crate::command::Session;
use anyhow::Result;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::time::Duration;
use tilewright::bert::{Bert, Config, Workspace};
use tilewright::layers::Buffer;
use tilewright::{Batch, probe};
use tilewright_kernels::gemm::{Epilogue, Gemm, PackedB, Rhs};
use tilewright_kernels::{
    Activate, Activation, Attention, Backend, Error, LayerNorm, Mask, RmsNorm, Rows, Softmax, View, ViewMut,
    Window,
};

/// Time for each row; a model's forward may take longer than that.
const BUDGET: Duration = Duration::from_millis(300);

/// What one run of a kernel does.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Floating-point operations.
    Flops(f64),
    /// Bytes read and written.
    Bytes(f64),
    /// Tokens, and the floating-point operations of the products they go through.
    Tokens { tokens: f64, flops: f64 },
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Measurement {
    pub kernel: &'static str,
    pub case: String,
    pub work: Work,
    /// Of the fastest run.
    pub seconds: f64,
    /// Operations per second of the peak probe in between.
    peak: f64,
}

impl Measurement {
    /// Operations done, as a share of those that the peak probe would have done.
    pub fn share_of_peak(&self) -> Option<f64> {
        match self.work {
            Work::Flops(flops) | Work::Tokens { flops, .. } => Some(flops / self.seconds / self.peak),
            Work::Bytes(_) => None,
        }
    }

    pub fn json(&self) -> Value {
        let mut row = json!({ "kernel": self.kernel, "case": self.case, "ms": self.seconds * 1e3 });
        match self.work {
            Work::Flops(n) => row["gflops"] = json!(n / self.seconds / 1e9),
            Work::Bytes(n) => row["gbytes_per_s"] = json!(n / self.seconds / 1e9),
            Work::Tokens { tokens, .. } => row["tokens_per_s"] = json!(tokens / self.seconds),
        }
        if let Some(share) = self.share_of_peak() {
            row["share_of_peak"] = json!(share);
        }
        row
    }
}

/// (m, k, n): BERT-base's layers at 128 and 512 tokens, squares, MiniLM's at 32 tokens, decoding.
const LINEAR: [[usize; 3]; 9] = [
    [128, 768, 768],
    [128, 768, 3072],
    [512, 768, 3072],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [32, 384, 1536],
    [64, 64, 64],
    [1, 768, 3072],
    [1, 4096, 4096],
];

/// Batch, length, and whether causal; 12 heads of 64.
const ATTENTION: [(usize, usize, bool); 5] =
    [(1, 128, false), (1, 512, false), (1, 2048, false), (1, 2048, true), (8, 128, false)];

/// Rows of 768.
const ROWS_OF_768: [usize; 2] = [128, 4096];

/// Batch and length of BERT-base's inputs.
const BERT: [(usize, usize); 4] = [(1, 16), (1, 128), (8, 128), (1, 512)];

/// Kernels measured on rows.
const ROW_KERNELS: usize = 5;

/// Rows of the table.
pub const ROWS: u64 =
    (2 * LINEAR.len() + ATTENTION.len() + ROW_KERNELS * ROWS_OF_768.len() + BERT.len()) as u64;

/// Measures everything.
pub fn measure(session: &Session, bar: &ProgressBar) -> Result<Vec<Measurement>> {
    let mut bench = Bench { backend: session.backend, bar, rows: Vec::new() };
    for shape in LINEAR {
        linear(&mut bench, shape)?;
    }
    for case in ATTENTION {
        attention(&mut bench, case)?;
    }
    for rows in ROWS_OF_768 {
        row_kernels(&mut bench, rows)?;
    }
    bert(&mut bench)?;
    Ok(bench.rows)
}

struct Bench<'a> {
    backend: Backend,
    bar: &'a ProgressBar,
    rows: Vec<Measurement>,
}

impl Bench<'_> {
    /// Adds a row: the time of `f`, of which every run must succeed.
    fn time<E: Into<anyhow::Error>>(
        &mut self,
        kernel: &'static str,
        case: String,
        work: Work,
        mut f: impl FnMut() -> Result<(), E>,
    ) -> Result<()> {
        self.bar.set_message(format!("{kernel} {case}"));
        let mut result = Ok(());
        let timing = probe::time(self.backend, BUDGET, || {
            if result.is_ok() {
                result = f();
            }
        });
        self.bar.inc(1);
        result.map_err(Into::into)?;
        self.rows.push(Measurement { kernel, case, work, seconds: timing.seconds, peak: timing.peak });
        Ok(())
    }
}

/// `n` numbers of either sign around 0, none of them denormal.
fn numbers(buffer: &mut Buffer, n: usize) -> &mut [f32] {
    let numbers = buffer.get(n);
    for (i, x) in numbers.iter_mut().enumerate() {
        *x = (i * 37 % 101) as f32 / 50.0 - 1.01;
    }
    numbers
}

/// y = x W^T.
fn linear(bench: &mut Bench<'_>, [m, k, n]: [usize; 3]) -> Result<()> {
    let [mut x, mut weight, mut y] = [(); 3].map(|()| Buffer::default());
    let a = View::new(numbers(&mut x, m * k), [1, m, k])?;
    let b = View::new(numbers(&mut weight, n * k), [n, k])?.transpose();
    let y = y.get(m * n);
    let packed = PackedB::new(bench.backend, b);
    let work = Work::Flops(2.0 * (m * k * n) as f64);
    let backend = bench.backend;
    for (kernel, rhs) in [("linear", Rhs::Packed(&packed)), ("linear, unpacked", Rhs::Matrix(b.into()))] {
        bench.time(kernel, format!("{m}x{k}x{n}"), work, || {
            let c = ViewMut::new(&mut *y, [1, m, n])?;
            backend.run(Gemm { alpha: 1.0, a, b: rhs, beta: 0.0, c, epilogue: Epilogue::default() })
        })?;
    }
    Ok(())
}

fn attention(bench: &mut Bench<'_>, (batch, length, causal): (usize, usize, bool)) -> Result<()> {
    let shape = [batch, 12, length, 64];
    let elements = shape.iter().product();
    let [mut q, mut k, mut v, mut out] = [(); 4].map(|()| Buffer::default());
    let [q, k, v] = [&mut q, &mut k, &mut v].map(|x| View::new(numbers(x, elements), shape));
    let (q, k, v, out) = (q?, k?, v?, out.get(elements));
    let window = if causal { Window::CAUSAL } else { Window::ALL };
    // Two products; half of the scores are never needed under a causal mask.
    let flops = 4.0 * (elements * length) as f64 * if causal { 0.5 } else { 1.0 };
    let case = format!("B{batch} S{length}{}", if causal { " causal" } else { "" });
    let backend = bench.backend;
    bench.time("attention", case, Work::Flops(flops), || {
        backend.run(Attention { window, ..Attention::new(q, k, v, ViewMut::new(&mut *out, shape)?) })
    })
}

fn row_kernels(bench: &mut Bench<'_>, rows: usize) -> Result<()> {
    const N: usize = 768;
    let [mut x, mut y, mut weight, mut bias] = [(); 4].map(|()| Buffer::default());
    let x = View::new(numbers(&mut x, rows * N), [rows, N])?;
    let (weight, bias) = (Some(&*numbers(&mut weight, N)), Some(&*numbers(&mut bias, N)));
    let y = y.get(rows * N);
    let backend = bench.backend;
    let mut time = |kernel, run: &dyn Fn(Rows<'_>) -> Result<(), Error>| {
        let work = Work::Bytes((2 * rows * N * size_of::<f32>()) as f64);
        bench.time(kernel, format!("{rows}x{N}"), work, || {
            run(Rows::Into(x, ViewMut::new(&mut *y, [rows, N])?))
        })
    };
    time("layernorm", &|rows| backend.run(LayerNorm { rows, residual: None, weight, bias, eps: 1e-12 }))?;
    time("rmsnorm", &|rows| backend.run(RmsNorm { rows, residual: None, weight, eps: 1e-6 }))?;
    time("softmax", &|rows| backend.run(Softmax { rows, scale: 1.0, mask: Mask::None, log: false }))?;
    time("gelu erf", &|rows| backend.run(Activate { rows, activation: Activation::GeluErf }))?;
    time("gelu tanh", &|rows| backend.run(Activate { rows, activation: Activation::GeluTanh }))
}

/// BERT-base with random weights.
fn bert(bench: &mut Bench<'_>) -> Result<()> {
    bench.bar.set_message("making the weights of BERT-base");
    let config = Config::default();
    let [h, i, layers] = [config.hidden_size, config.intermediate_size, config.num_hidden_layers];
    let bert = Bert::random(config, 0, bench.backend)?;
    let mut work = Workspace::default();
    for (sequences, length) in BERT {
        let mut batch = Batch::default();
        for _ in 0..sequences {
            // Any ids will do: the time does not depend on them.
            let ids: Vec<u32> = (0..length as u32).map(|i| 1000 + i).collect();
            batch.push(&ids, &vec![0; length])?;
        }
        let tokens = (sequences * length) as f64;
        // Four products with H x H, two with H x I, and scores and sums over `length` keys.
        let flops = 2.0 * tokens * (layers * (4 * h * h + 2 * h * i + 2 * length * h)) as f64;
        let case = format!("B{sequences} S{length}");
        bench.time("BERT-base", case, Work::Tokens { tokens, flops }, || {
            bert.forward(&batch, &mut work).map(drop)
        })?;
    }
    Ok(())
}
