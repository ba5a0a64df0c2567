//! A case: an operation, its type, shape, inputs and work, and the call that runs it.

mod inputs;
mod prepare;
mod rows;
mod training;

pub use crate::work::Work;
pub use inputs::{Aligned, Inputs};
pub use prepare::Prepared;
pub use rows::{ROW_KERNELS, RowKernel};
pub use training::TrainingStep;

use super::models::{MODELS, Models, TRAIN_CASES, Task};
use core::fmt;
use tilewright::ActivationQuantization;
use tilewright::bytes_per_weight;
use tilewright_kernels::gemm::Format;
pub use tilewright_peers::Dtype;
use tilewright_peers::PeerOperation;
use tilewright_verify::bound::gamma;

/// The operation of a case.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// y = x W^T.
    Linear {
        /// m, k, n.
        shape: [usize; 3],
        /// True if W is packed beforehand.
        packed: bool,
    },
    /// dX = dY W, dW += dY^T X, dbias += column sums of dY.
    LinearBackward {
        /// m, k, n of y = x W^T.
        shape: [usize; 3],
    },
    /// Fused attention.
    Attention(AttentionShape),
    /// A row kernel.
    Rows {
        /// The kernel.
        kernel: &'static RowKernel,
        /// Rows, columns.
        shape: [usize; 2],
    },
    /// A step of training.
    Training(TrainingStep),
    /// A model with random weights.
    Model {
        /// Index into [`MODELS`].
        model: usize,
        /// The task of the model.
        task: Task,
    },
    /// A training step of a model: index into [`TRAIN_CASES`].
    Train(usize),
}

/// Extents of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Queries of each sequence, at the positions of its last keys.
    pub queries: usize,
    /// Keys of each sequence.
    pub keys: usize,
    /// Width of a head.
    pub dim: usize,
    /// True if a query sees only keys up to its own position.
    pub causal: bool,
    /// True if keys and values are packed beforehand, in a cache of one sequence.
    pub cached: bool,
    /// True if the gradients of q, k and v follow the outputs.
    pub backward: bool,
    /// True if dropout drops one weight in ten.
    pub dropout: bool,
}

impl AttentionShape {
    /// True for the attention of a decoder, which caches keys and values: a step of one query, or a prompt with
    /// grouped heads.
    pub fn is_decoder(&self) -> bool {
        self.queries < self.keys || self.kv_heads < self.heads
    }
}

impl fmt::Display for AttentionShape {
    /// Writes `B1 H12 S512 D64 causal`, with `H9/3` for grouped heads, `S1:512` for one query of 512 keys, and
    /// `cached` or `dropout` at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, heads, kv_heads, queries, keys, dim, causal, cached, backward: _, dropout } = self;
        write!(f, "B{batch} H{heads}")?;
        if kv_heads != heads {
            write!(f, "/{kv_heads}")?;
        }
        write!(f, " S{queries}")?;
        if keys != queries {
            write!(f, ":{keys}")?;
        }
        write!(f, " D{dim}")?;
        let ends = [(causal, " causal"), (cached, " cached"), (dropout, " dropout")];
        ends.iter().filter(|(is, _)| **is).try_for_each(|(_, end)| f.write_str(end))
    }
}

/// An operation in a type.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Type of inputs and weights.
    pub dtype: Dtype,
    /// The operation.
    pub operation: Operation,
}

/// All types.
pub const DTYPES: [Dtype; 7] =
    [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::Int8, Dtype::Q8_0, Dtype::Q4_0, Dtype::Q4_1];

/// The name of a type in rows and on the command line.
pub fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::Bf16 => "bf16",
        Dtype::F16 => "f16",
        Dtype::Int8 => "int8",
        Dtype::Q8_0 => "q8_0",
        Dtype::Q4_0 => "q4_0",
        Dtype::Q4_1 => "q4_1",
    }
}

/// Format of packed weights of this type.
pub(crate) fn format(dtype: Dtype) -> Format {
    match dtype {
        Dtype::F32 => Format::F32,
        Dtype::Bf16 => Format::Bf16,
        Dtype::F16 => Format::F16,
        Dtype::Int8 => Format::Int8,
        Dtype::Q8_0 => Format::Q8_0,
        Dtype::Q4_0 => Format::Q4_0,
        Dtype::Q4_1 => Format::Q4_1,
    }
}

/// Bytes of an activation and of a weight of this type.
fn bytes_of(dtype: Dtype) -> [f64; 2] {
    let of_weights = bytes_per_weight(format(dtype));
    match dtype {
        Dtype::F32 | Dtype::Bf16 | Dtype::F16 => [of_weights; 2],
        // Every run quantizes f32 activations.
        _ => [4.0, of_weights],
    }
}

impl Case {
    /// Name of the kernel: `linear`, `attention`, `layernorm`, .. or `model/bert-base`, ..
    pub fn kernel(&self) -> &'static str {
        match self.operation {
            Operation::Linear { .. } => "linear",
            Operation::LinearBackward { .. } => "linear-backward",
            Operation::Attention(AttentionShape { backward: true, .. }) => "attention-backward",
            Operation::Attention(_) => "attention",
            Operation::Rows { kernel, .. } => kernel.name,
            Operation::Training(step) => step.kernel(),
            Operation::Model { model, .. } => MODELS[model].name,
            Operation::Train(case) => TRAIN_CASES[case].name,
        }
    }

    /// The shape, as it appears in rows.
    pub fn shape(&self) -> String {
        match self.operation {
            Operation::Linear { shape: [m, k, n], .. } | Operation::LinearBackward { shape: [m, k, n] } => {
                format!("{m}x{k}x{n}")
            }
            Operation::Attention(shape) => shape.to_string(),
            Operation::Rows { shape: [rows, columns], .. } => format!("{rows}x{columns}"),
            Operation::Training(step) => step.to_string(),
            Operation::Model { task, .. } => task.to_string(),
            Operation::Train(case) => TRAIN_CASES[case].shape.to_owned(),
        }
    }

    /// True if weights are packed beforehand; `None` if the operation has no weights to pack.
    pub fn packed(&self) -> Option<bool> {
        match self.operation {
            Operation::Linear { packed, .. } => Some(packed),
            _ => None,
        }
    }

    /// Name for filters: `linear/f32/128x768x768/packed`.
    pub fn name(&self) -> String {
        let packed = match self.packed() {
            Some(true) => "/packed",
            Some(false) => "/unpacked",
            None => "",
        };
        format!("{}/{}/{}{packed}", self.kernel(), dtype_name(self.dtype), self.shape())
    }

    /// Activation quantization of a model's linear layers, if it is not the default of the case's type.
    pub(crate) fn layer_inputs(&self, models: &Models) -> Option<ActivationQuantization> {
        let Operation::Model { .. } = self.operation else { return None };
        let rounds = self.dtype != Dtype::F32;
        models
            .layer_inputs
            .filter(|&inputs| rounds && inputs != ActivationQuantization::of(format(self.dtype)))
    }

    /// The work of one run.
    pub fn work(&self) -> Work {
        let [size, of_weights] = bytes_of(self.dtype);
        let product = |numbers: &[usize]| numbers.iter().map(|&n| n as f64).product::<f64>();
        match self.operation {
            Operation::Linear { shape: [m, k, n], .. } => Work {
                flops: 2.0 * product(&[m, k, n]),
                // Outputs are 32 bits wide for every type of input.
                bytes: size * product(&[m, k]) + of_weights * product(&[k, n]) + 4.0 * product(&[m, n]),
                tokens: None,
            },
            Operation::LinearBackward { shape: [m, k, n] } => Work {
                flops: 4.0 * product(&[m, k, n]),
                // dX has the type of the inputs. dW is f32, read and written.
                bytes: size * (product(&[m, n]) + 2.0 * product(&[m, k]))
                    + (of_weights + 8.0) * product(&[k, n]),
                tokens: None,
            },
            Operation::Attention(s) => {
                // Under a causal mask, the last query sees all keys and each earlier query sees one key less.
                let seen = match s.causal {
                    true => (2 * s.keys + 1 - s.queries) as f64 / 2.0,
                    false => s.keys as f64,
                };
                let ends = product(&[s.batch, s.heads, s.queries, s.dim]);
                let keys = product(&[s.batch, s.kv_heads, s.keys, s.dim]);
                // Two products, and five for the gradients, which read all of these arrays again.
                let [products, passes] = if s.backward { [7.0, 3.0] } else { [2.0, 1.0] };
                let bytes = 2.0 * passes * size * (ends + keys);
                Work { flops: 2.0 * products * ends * seen, bytes, tokens: None }
            }
            Operation::Rows { kernel, shape } => {
                let bytes = (size * kernel.streams + 4.0 * kernel.f32_streams) * product(&shape);
                Work { flops: 0.0, bytes, tokens: None }
            }
            Operation::Training(step) => step.work(size),
            Operation::Model { model, task } => MODELS[model].work(task, of_weights),
            Operation::Train(case) => TRAIN_CASES[case].work(),
        }
    }

    /// Random inputs that the case's type represents exactly; inputs of products are exact in every type.
    pub fn inputs(&self) -> Inputs {
        match self.operation {
            Operation::Linear { shape, .. } => Inputs::linear(shape, self.dtype),
            Operation::LinearBackward { shape } => Inputs::linear_backward(shape, self.dtype),
            Operation::Attention(s) => Inputs::attention(
                s.batch * s.heads * s.queries * s.dim,
                s.batch * s.kv_heads * s.keys * s.dim,
            ),
            Operation::Rows { shape, .. } => Inputs::rows(shape, self.dtype),
            Operation::Training(step) => step.inputs(),
            Operation::Model { .. } | Operation::Train(_) => Inputs::default(),
        }
    }

    /// The operation in the interface of other libraries; `None` if no library has it.
    pub fn for_peers<'a>(&self, inputs: &'a Inputs) -> Option<PeerOperation<'a>> {
        match self.operation {
            Operation::Linear { shape, packed } => Some(PeerOperation::Linear {
                shape,
                x: &inputs.x,
                weight: &inputs.y,
                dtype: self.dtype,
                packed,
            }),
            Operation::Rows { kernel, shape } if self.dtype == Dtype::F32 => {
                kernel.peer.map(|peer| peer(shape, inputs))
            }
            _ => None,
        }
    }

    /// Compares a peer's output with the definition, loosely: the check detects a different operation and does not
    /// judge accuracy.
    ///
    /// # Errors
    /// Names the first wrong element, with the found and the expected value.
    pub fn check(&self, inputs: &Inputs, output: &[f32]) -> Result<(), String> {
        match self.operation {
            Operation::Linear { shape: [m, k, n], .. } => {
                if output.len() != m * n {
                    return Err(format!("{} elements, expected {}", output.len(), m * n));
                }
                // About 1000 elements, spread over rows and columns, including the first and the last.
                let step = (m * n / 1000).max(1) | 1;
                for i in (0..m * n).step_by(step).chain([m * n - 1]) {
                    let (row, column) = (&inputs.x[i / n * k..][..k], &inputs.y[i % n * k..][..k]);
                    self.check_sum(i, output[i], row.iter().zip(column).map(|(&a, &b)| [a, b]))?;
                }
            }
            Operation::LinearBackward { shape: [m, k, n] } => {
                if output.len() != m * k + n * k + n {
                    return Err(format!("{} elements, expected {}", output.len(), m * k + n * k + n));
                }
                let (dx, rest) = output.split_at(m * k);
                let (dweight, dbias) = rest.split_at(n * k);
                let Inputs { x, y: weight, z: dy, .. } = inputs;
                for i in (0..m * k).step_by((m * k / 1000).max(1) | 1) {
                    let of = |o: usize| [dy[i / k * n + o], weight[o * k + i % k]];
                    self.check_sum(i, dx[i], (0..n).map(of))?;
                }
                for i in (0..n * k).step_by((n * k / 1000).max(1) | 1) {
                    let of = |row: usize| [dy[row * n + i / k], x[row * k + i % k]];
                    self.check_sum(m * k + i, dweight[i], (0..m).map(of))?;
                }
                for (o, &sum) in dbias.iter().enumerate() {
                    self.check_sum(m * k + n * k + o, sum, (0..m).map(|row| [dy[row * n + o], 1.0]))?;
                }
            }
            Operation::Rows { kernel, shape } => {
                let mut expected = vec![0.0; shape[0] * shape[1]];
                kernel.define(shape, inputs, &mut expected).map_err(|e| e.to_string())?;
                if output.len() != expected.len() {
                    return Err(format!("{} elements, expected {}", output.len(), expected.len()));
                }
                let scale = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                for (i, (&found, &exact)) in output.iter().zip(&expected).enumerate() {
                    let error = (found - exact).abs();
                    // The output may be rounded to bf16, which has 8 bits.
                    let rounding = if self.dtype == Dtype::F32 { 0.0 } else { 2f32.powi(-8) * exact.abs() };
                    if error.is_nan() || error > 1e-4 * scale + rounding {
                        return wrong(i, found, exact.into());
                    }
                }
            }
            Operation::Attention(_)
            | Operation::Training(_)
            | Operation::Model { .. }
            | Operation::Train(_) => {}
        }
        Ok(())
    }

    /// Compares an element of a product with the sum of the products of `terms`.
    fn check_sum(
        &self,
        i: usize,
        found: f32,
        terms: impl ExactSizeIterator<Item = [f32; 2]>,
    ) -> Result<(), String> {
        let bound = gamma(terms.len());
        let products = terms.map(|[a, b]| f64::from(a) * f64::from(b));
        let (sum, magnitude) = products.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()));
        // The inputs are exact in every type; an output may have been rounded to 8 bits.
        let rounding = if self.dtype == Dtype::F32 { 0.0 } else { 2f64.powi(-8) * sum.abs() };
        let error = (f64::from(found) - sum).abs();
        if error.is_nan() || error > bound * magnitude + rounding { wrong(i, found, sum) } else { Ok(()) }
    }
}

/// An element that is not what the definition makes it.
fn wrong(i: usize, found: f32, expected: f64) -> Result<(), String> {
    Err(format!("element {i} is {found:e}, by the definition {expected:e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilewright_kernels::Backend;

    #[test]
    fn names_tell_shapes() {
        let shape = AttentionShape {
            batch: 1,
            heads: 9,
            kv_heads: 3,
            queries: 1,
            keys: 512,
            dim: 64,
            causal: true,
            cached: false,
            backward: false,
            dropout: false,
        };
        let case = Case { dtype: Dtype::F32, operation: Operation::Attention(shape) };
        assert_eq!(case.name(), "attention/f32/B1 H9/3 S1:512 D64 causal");
        // One query sees all 512 keys: two products of 512 x 64 for each of 9 heads.
        assert_eq!(case.work().flops, 4.0 * 9.0 * 512.0 * 64.0);
        let operation = Operation::Linear { shape: [2, 3, 4], packed: false };
        assert_eq!(Case { dtype: Dtype::Bf16, operation }.name(), "linear/bf16/2x3x4/unpacked");
        assert_eq!(Case { dtype: Dtype::Bf16, operation }.work().bytes, 2.0 * (6.0 + 12.0) + 4.0 * 8.0);
    }

    #[test]
    fn a_causal_square_sees_its_lower_half() {
        let shape = AttentionShape {
            batch: 1,
            heads: 1,
            kv_heads: 1,
            queries: 3,
            keys: 3,
            dim: 1,
            causal: true,
            cached: false,
            backward: false,
            dropout: false,
        };
        // 1 + 2 + 3 of 9 scores.
        let case = Case { dtype: Dtype::F32, operation: Operation::Attention(shape) };
        assert_eq!(case.work().flops, 4.0 * 6.0);
    }

    /// Every kernel's fast form passes the check, and a result that is off does not.
    #[test]
    fn wrong_results_are_seen() {
        let models = Models::default();
        let linear = [true, false].map(|packed| Operation::Linear { shape: [5, 40, 33], packed });
        let rows = ROW_KERNELS.iter().map(|kernel| Operation::Rows { kernel, shape: [4, 128] });
        let rows = rows.chain([Operation::LinearBackward { shape: [5, 40, 33] }]);
        let f32 = linear.into_iter().chain(rows.clone()).map(|operation| (Dtype::F32, operation));
        let others =
            [Dtype::Bf16, Dtype::F16].map(|dtype| rows.clone().map(move |operation| (dtype, operation)));
        for (dtype, operation) in f32.chain(others.into_iter().flatten()) {
            let case = Case { dtype, operation };
            let inputs = case.inputs();
            let mut prepared = case.prepare(&inputs, Backend::best(), &models).unwrap().unwrap();
            prepared.run().unwrap();
            case.check(&inputs, prepared.output().unwrap())
                .unwrap_or_else(|e| panic!("{}: {e}", case.name()));
            let mut output = prepared.output().unwrap().to_vec();
            output[0] += 1.0;
            assert!(case.check(&inputs, &output).is_err(), "{}", case.name());
            output[0] = f32::NAN;
            assert!(case.check(&inputs, &output).is_err(), "{}", case.name());
            assert!(case.check(&inputs, &output[1..]).is_err(), "{}", case.name());
        }
    }
}
