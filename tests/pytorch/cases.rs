//! Each case of `errors.py` through our kernels.

use std::collections::BTreeMap;
use tilewright_kernels::gemm::{Epilogue, Gemm, Rhs};
use tilewright_kernels::optimizer::{Adam, AdamOptions, Trainable, WeightDecay};
use tilewright_kernels::{
    Activate, ActivateBackward, Activation, Attention, AttentionBackward, Backend, BceWithLogits,
    BceWithLogitsBackward, CrossEntropyBackward, Element, EmbeddingBackward, Error, Gated, GatedBackward,
    L2Normalize, L2NormalizeBackward, LayerNorm, LayerNormBackward, LinearBackward, LinearCrossEntropy,
    RmsNorm, RmsNormBackward, Rows, Softmax, SoftmaxBackward, Targets, View, ViewMut, Window,
};

/// Tensors of a case, by kind and name: shape and values.
pub type Case = BTreeMap<String, BTreeMap<String, (Vec<usize>, Vec<f64>)>>;

/// Results by name.
type Results = Vec<(&'static str, Vec<f64>)>;

/// Input tensor of type `T`, and its shape.
fn input<T: Element, const D: usize>(case: &Case, name: &str) -> (Vec<T>, [usize; D]) {
    let (shape, values) = &case["in"][name];
    (values.iter().map(|&x| T::from_f32(x as f32)).collect(), shape[..].try_into().expect("dimensions"))
}

fn floats(case: &Case, name: &str) -> Vec<f32> {
    case["in"][name].1.iter().map(|&x| x as f32).collect()
}

fn wide<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| x.to_f32().into()).collect()
}

fn zeros<T: Element>(n: usize) -> Vec<T> {
    vec![T::from_f32(0.0); n]
}

/// Runs a case on a backend.
pub fn run<T: Element>(name: &str, case: &Case, backend: Backend) -> Result<Results, Error> {
    Ok(match name {
        "linear" => linear::<T>(case, backend)?,
        _ if name.contains("attention") => attention::<T>(case, backend, name.contains("causal"))?,
        "layer norm" | "RMS norm" | "L2 normalisation" => norm::<T>(name, case, backend)?,
        "softmax" | "log-softmax" => softmax::<T>(case, backend, name.contains("log"))?,
        "linear cross-entropy" => linear_cross_entropy::<T>(case, backend)?,
        _ if name.starts_with("cross-entropy") => {
            cross_entropy::<T>(case, backend, if name.contains("0.1") { 0.1 } else { 0.0 })?
        }
        "BCE with logits" => bce_with_logits::<T>(case, backend)?,
        "SwiGLU" => gated::<T>(case, backend, Activation::Silu)?,
        "GEGLU" => gated::<T>(case, backend, Activation::GeluErf)?,
        "embedding" => embedding::<T>(case, backend)?,
        "AdamW" => adamw(case, backend)?,
        _ => activate::<T>(name, case, backend)?,
    })
}

fn linear<T: Element>(case: &Case, backend: Backend) -> Result<Results, Error> {
    let (x, x_shape) = input::<T, 2>(case, "x");
    let (weight, [n, k]) = input::<T, 2>(case, "weight");
    let (dy, dy_shape) = input::<T, 2>(case, "dy");
    let bias = floats(case, "bias");
    let (mut y, mut dx) = (zeros::<T>(dy.len()), zeros::<T>(x.len()));
    let (mut dweight, mut dbias) = (vec![0.0; n * k], vec![0.0; n]);
    let weights = View::new(&weight, [n, k])?;
    backend.run(Gemm {
        epilogue: Epilogue { column_bias: Some(&bias), ..Epilogue::default() },
        ..Gemm::new(
            View::<3, T>::from(View::new(&x, x_shape)?),
            Rhs::Matrix(View::<3, T>::from(weights.transpose()).into()),
            ViewMut::<3, T>::from(ViewMut::new(&mut y, dy_shape)?),
        )
    })?;
    backend.run(LinearBackward {
        dy: View::new(&dy, dy_shape)?.into(),
        x: View::new(&x, x_shape)?.into(),
        weight: Rhs::Matrix(View::<3, T>::from(weights).into()),
        dx: Some(ViewMut::new(&mut dx, x_shape)?.into()),
        dweight: Some(ViewMut::new(&mut dweight, [n, k])?),
        dbias: Some(&mut dbias),
    })?;
    Ok(vec![("y", wide(&y)), ("dx", wide(&dx)), ("dweight", wide(&dweight)), ("dbias", wide(&dbias))])
}

fn attention<T: Element>(case: &Case, backend: Backend, causal: bool) -> Result<Results, Error> {
    let [(q, shape), (k, kv_shape), (v, _), (dout, _)] =
        ["q", "k", "v", "dy"].map(|name| input::<T, 4>(case, name));
    let [batch, heads, queries, _] = shape;
    let (mut out, mut lse) = (zeros::<T>(q.len()), vec![0.0; batch * heads * queries]);
    let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(zeros::<T>);
    let views = [View::new(&q, shape)?, View::new(&k, kv_shape)?, View::new(&v, kv_shape)?];
    let window = if causal { Window::CAUSAL } else { Window::ALL };
    let [q, k, v] = views;
    backend.run(Attention {
        window,
        lse: Some(ViewMut::new(&mut lse, [batch, heads, queries])?),
        ..Attention::new(q, k, v, ViewMut::new(&mut out, shape)?)
    })?;
    let results = (View::new(&out, shape)?, View::new(&lse, [batch, heads, queries])?);
    let gradients =
        [ViewMut::new(&mut dq, shape)?, ViewMut::new(&mut dk, kv_shape)?, ViewMut::new(&mut dv, kv_shape)?];
    let dout = View::new(&dout, shape)?;
    backend.run(AttentionBackward { window, ..AttentionBackward::new(views, results, dout, gradients) })?;
    Ok(vec![("y", wide(&out)), ("dq", wide(&dq)), ("dk", wide(&dk)), ("dv", wide(&dv))])
}

fn norm<T: Element>(name: &str, case: &Case, backend: Backend) -> Result<Results, Error> {
    let [(x, shape), (dy, _)] = ["x", "dy"].map(|name| input::<T, 2>(case, name));
    let [rows, n] = shape;
    let (mut y, mut dx) = (zeros::<T>(x.len()), zeros::<T>(x.len()));
    let (mut mean, mut inverse_deviation) = (vec![0.0; rows], vec![0.0; rows]);
    let (mut dweight, mut dbias) = (vec![0.0; n], vec![0.0; n]);
    let x = View::new(&x, shape)?;
    let forward = Rows::Into(x, ViewMut::new(&mut y, shape)?);
    let backward = Rows::Into(View::new(&dy, shape)?, ViewMut::new(&mut dx, shape)?);
    let weight = if case["in"].contains_key("weight") { floats(case, "weight") } else { vec![] };
    match name {
        "layer norm" => {
            let bias = floats(case, "bias");
            backend.run(LayerNorm {
                weight: Some(&weight),
                bias: Some(&bias),
                mean: Some(&mut mean),
                inverse_deviation: Some(&mut inverse_deviation),
                ..LayerNorm::new(forward, 1e-12)
            })?;
            backend.run(LayerNormBackward {
                weight: Some(&weight),
                dweight: Some(&mut dweight),
                dbias: Some(&mut dbias),
                ..LayerNormBackward::new(backward, x, &mean, &inverse_deviation)
            })?;
        }
        "RMS norm" => {
            backend.run(RmsNorm {
                weight: Some(&weight),
                inverse_deviation: Some(&mut inverse_deviation),
                ..RmsNorm::new(forward, 1e-6)
            })?;
            backend.run(RmsNormBackward {
                weight: Some(&weight),
                dweight: Some(&mut dweight),
                ..RmsNormBackward::new(backward, x, &inverse_deviation)
            })?;
        }
        _ => {
            backend.run(L2Normalize { rows: forward, eps: 1e-12 })?;
            backend.run(L2NormalizeBackward { rows: backward, x, eps: 1e-12 })?;
        }
    }
    let mut results = vec![("y", wide(&y)), ("dx", wide(&dx))];
    if !weight.is_empty() {
        results.push(("dweight", wide(&dweight)));
    }
    if name == "layer norm" {
        results.push(("dbias", wide(&dbias)));
    }
    Ok(results)
}

fn softmax<T: Element>(case: &Case, backend: Backend, log: bool) -> Result<Results, Error> {
    let [(x, shape), (dy, _)] = ["x", "dy"].map(|name| input::<T, 2>(case, name));
    let (mut y, mut dx) = (zeros::<T>(x.len()), zeros::<T>(x.len()));
    let rows = Rows::Into(View::new(&x, shape)?, ViewMut::new(&mut y, shape)?);
    backend.run(Softmax { log, ..Softmax::new(rows) })?;
    let rows = Rows::Into(View::new(&dy, shape)?, ViewMut::new(&mut dx, shape)?);
    backend.run(SoftmaxBackward { log, ..SoftmaxBackward::new(rows, View::new(&y, shape)?) })?;
    Ok(vec![("y", wide(&y)), ("dx", wide(&dx))])
}

fn labels(case: &Case) -> Vec<i64> {
    case["in"]["labels"].1.iter().map(|&label| label as i64).collect()
}

fn cross_entropy<T: Element>(case: &Case, backend: Backend, smoothing: f32) -> Result<Results, Error> {
    let (mut x, shape) = input::<T, 2>(case, "x");
    let labels = labels(case);
    let loss = backend.run(CrossEntropyBackward {
        rows: Rows::InPlace(ViewMut::new(&mut x, shape)?),
        targets: Targets { smoothing, ..Targets::new(&labels) },
        scale: 1.0,
        losses: None,
    })?;
    Ok(vec![("y", vec![loss.sum]), ("dx", wide(&x))])
}

fn linear_cross_entropy<T: Element>(case: &Case, backend: Backend) -> Result<Results, Error> {
    let [(x, shape), (weight, weight_shape)] = ["x", "weight"].map(|name| input::<T, 2>(case, name));
    let (mut dx, mut dweight) = (zeros::<T>(x.len()), vec![0.0; weight.len()]);
    let labels = labels(case);
    let [x, weight] = [View::new(&x, shape)?, View::new(&weight, weight_shape)?];
    let loss = backend.run(LinearCrossEntropy {
        dx: Some(ViewMut::new(&mut dx, shape)?),
        dweight: Some(ViewMut::new(&mut dweight, weight_shape)?),
        ..LinearCrossEntropy::new(x, weight, Targets::new(&labels))
    })?;
    Ok(vec![("y", vec![loss.sum]), ("dx", wide(&dx)), ("dweight", wide(&dweight))])
}

fn bce_with_logits<T: Element>(case: &Case, backend: Backend) -> Result<Results, Error> {
    let [(mut x, shape), (targets, _)] = ["x", "targets"].map(|name| input::<T, 2>(case, name));
    let targets = View::new(&targets, shape)?;
    let logits = View::new(&x, shape)?;
    let sum = backend.run(BceWithLogits { logits, targets, positive_weight: None })?;
    let rows = Rows::InPlace(ViewMut::new(&mut x, shape)?);
    backend.run(BceWithLogitsBackward { rows, targets, positive_weight: None, scale: 1.0 })?;
    Ok(vec![("y", vec![sum.sum]), ("dx", wide(&x))])
}

fn activate<T: Element>(name: &str, case: &Case, backend: Backend) -> Result<Results, Error> {
    let activation = match name {
        "ELU" => Activation::Elu,
        "GELU" => Activation::GeluErf,
        "GELU, tanh" => Activation::GeluTanh,
        "hard-swish" => Activation::HardSwish,
        "mish" => Activation::Mish,
        "quick-GELU" => Activation::QuickGelu,
        "sigmoid" => Activation::Sigmoid,
        "SiLU" => Activation::Silu,
        "softplus" => Activation::Softplus,
        "tanh" => Activation::Tanh,
        _ => panic!("unexpected case {name:?}"),
    };
    let [(x, shape), (dy, _)] = ["x", "dy"].map(|name| input::<T, 2>(case, name));
    let (mut y, mut dx) = (zeros::<T>(x.len()), zeros::<T>(x.len()));
    let x = View::new(&x, shape)?;
    backend.run(Activate { rows: Rows::Into(x, ViewMut::new(&mut y, shape)?), activation })?;
    let rows = Rows::Into(View::new(&dy, shape)?, ViewMut::new(&mut dx, shape)?);
    backend.run(ActivateBackward { rows, x, activation })?;
    Ok(vec![("y", wide(&y)), ("dx", wide(&dx))])
}

fn gated<T: Element>(case: &Case, backend: Backend, activation: Activation) -> Result<Results, Error> {
    let [(mut gate, shape), (mut up, _), (dy, _)] =
        ["gate", "up", "dy"].map(|name| input::<T, 2>(case, name));
    let mut y = gate.clone();
    let rows = Rows::InPlace(ViewMut::new(&mut y, shape)?);
    backend.run(Gated { gate: rows, up: View::new(&up, shape)?, activation })?;
    backend.run(GatedBackward {
        gate: Rows::InPlace(ViewMut::new(&mut gate, shape)?),
        up: Rows::InPlace(ViewMut::new(&mut up, shape)?),
        dy: View::new(&dy, shape)?,
        activation,
    })?;
    Ok(vec![("y", wide(&y)), ("dgate", wide(&gate)), ("dup", wide(&up))])
}

fn embedding<T: Element>(case: &Case, backend: Backend) -> Result<Results, Error> {
    let [(weight, table_shape), (dy, shape)] = ["weight", "dy"].map(|name| input::<T, 2>(case, name));
    let ids: Vec<u32> = case["in"]["ids"].1.iter().map(|&id| id as u32).collect();
    let mut dtable = vec![0.0; weight.len()];
    let dy = View::new(&dy, shape)?;
    backend.run(EmbeddingBackward::new(dy, &ids, ViewMut::new(&mut dtable, table_shape)?))?;
    Ok(vec![("dweight", wide(&dtable))])
}

fn adamw(case: &Case, backend: Backend) -> Result<Results, Error> {
    let [mut p, g, mut m, mut v] = ["p", "g", "m", "v"].map(|name| floats(case, name));
    let options = AdamOptions { weight_decay: WeightDecay::Decoupled(0.01), ..AdamOptions::adamw(1e-3, 10) };
    backend.run(Adam { of: Trainable::new(&mut p, &g), m: &mut m, v: &mut v, options })?;
    Ok(vec![("p", wide(&p)), ("m", wide(&m)), ("v", wide(&v))])
}
