"""Inputs, PyTorch's results and results in f64 of kernels and their gradients, for the example `pytorch_errors`.

    python -m venv venv && venv/bin/pip install torch==2.15.0 numpy safetensors
    venv/bin/python tests/pytorch/errors.py target/pytorch-errors.safetensors
    cargo run --release --example pytorch_errors -- target/pytorch-errors.safetensors

Each case is a name, a type, and tensors `case|type|kind|tensor`. The kinds are `in`, `torch` (computed on the CPU in
the type) and `exact` (computed in f64 from the same inputs).
"""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(0)
tensors = {}


def case(name, function, leaves, dout=True, others=None, types=(torch.float32, torch.bfloat16)):
    """Stores a case: `function(**leaves, **others)` returns the result. If `dout`, its gradient is a random input."""
    for dtype in types:
        key = f"{name}|{str(dtype).removeprefix('torch.')}"
        inputs = {k: v.to(dtype) for k, v in leaves.items()}
        fixed = {k: v.to(dtype) if v.is_floating_point() else v for k, v in (others or {}).items()}
        gradient = None
        for kind, wide in [("torch", dtype), ("exact", torch.float64)]:
            x = {k: v.detach().clone().to(wide).requires_grad_() for k, v in inputs.items()}
            y = function(**x, **{k: v.to(wide) if v.is_floating_point() else v for k, v in fixed.items()})
            if gradient is None and dout:
                gradient = torch.randn(y.shape).to(dtype)
            y.backward(gradient.to(wide) if dout else None)
            results = {"y": y, **{"d" + k: v.grad for k, v in x.items() if v.grad is not None}}
            for k, v in results.items():
                tensors[f"{key}|{kind}|{k}"] = v.detach().contiguous().clone()
        for k, v in (inputs | fixed | ({"dy": gradient} if dout else {})).items():
            tensors[f"{key}|in|{k}"] = v.contiguous().clone()


def randn(*shape):
    return torch.randn(*shape)


case("linear", lambda x, weight, bias: F.linear(x, weight, bias),
     {"x": randn(512, 768), "weight": randn(3072, 768) / 28, "bias": randn(3072)})

for name, causal, (batch, heads, kv_heads, length) in [
    ("attention", False, (2, 4, 4, 200)),
    ("causal attention", True, (1, 4, 4, 1024)),
    ("attention, grouped heads", False, (2, 8, 2, 333)),
    ("attention, large scores", False, (1, 4, 4, 512)),
]:
    size = 3 if "large" in name else 1
    case(name,
         lambda q, k, v, causal=causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True),
         {"q": randn(batch, heads, length, 64) * size, "k": randn(batch, kv_heads, length, 64),
          "v": randn(batch, kv_heads, length, 64)})

x, weight, bias = randn(512, 768) * 2 + 0.5, 1 + randn(768) / 8, randn(768) / 8
case("layer norm", lambda x, weight, bias: F.layer_norm(x, (768,), weight, bias, 1e-12),
     {"x": x, "weight": weight, "bias": bias})
case("RMS norm", lambda x, weight: F.rms_norm(x, (768,), weight, 1e-6), {"x": x, "weight": weight})
case("L2 normalisation", lambda x: F.normalize(x, dim=-1, eps=1e-12), {"x": x})
case("softmax", lambda x: F.softmax(x, -1), {"x": x})
case("log-softmax", lambda x: F.log_softmax(x, -1), {"x": x})

labels = torch.where(torch.rand(512) < 0.2, -100, torch.randint(0, 768, (512,)))
case("cross-entropy", lambda x, labels: F.cross_entropy(x, labels, reduction="sum"), {"x": x}, False,
     {"labels": labels})
case("cross-entropy, smoothing 0.1",
     lambda x, labels: F.cross_entropy(x, labels, reduction="sum", label_smoothing=0.1), {"x": x}, False,
     {"labels": labels})
case("linear cross-entropy", lambda x, weight, labels: F.cross_entropy(x @ weight.t(), labels, reduction="sum"),
     {"x": randn(512, 256), "weight": randn(5000, 256) / 16}, False,
     {"labels": torch.where(torch.rand(512) < 0.5, -100, torch.randint(0, 5000, (512,)))})
case("BCE with logits", lambda x, targets: F.binary_cross_entropy_with_logits(x, targets, reduction="sum"),
     {"x": x}, False, {"targets": (torch.rand(512, 768) < 0.5).float()})

for name, function in [
    ("ELU", F.elu), ("GELU", F.gelu), ("GELU, tanh", lambda x: F.gelu(x, approximate="tanh")),
    ("hard-swish", F.hardswish), ("mish", F.mish), ("quick-GELU", lambda x: x * torch.sigmoid(1.702 * x)),
    ("sigmoid", torch.sigmoid), ("SiLU", F.silu), ("softplus", F.softplus), ("tanh", torch.tanh),
]:
    case(name, function if "quick" in name else lambda x, f=function: f(x), {"x": x * 1.5})
case("SwiGLU", lambda gate, up: F.silu(gate) * up, {"gate": x, "up": randn(512, 768)})
case("GEGLU", lambda gate, up: F.gelu(gate) * up, {"gate": x, "up": randn(512, 768)})

case("embedding", lambda weight, ids: F.embedding(ids, weight), {"weight": randn(500, 256)}, True,
     {"ids": torch.randint(0, 50, (2048,))})

# One step of AdamW from given moments, as torch.optim.AdamW computes it.
p, g, m, v = randn(10000), randn(10000) / 10, randn(10000) / 20, torch.rand(10000) / 300
for kind, wide in [("torch", torch.float32), ("exact", torch.float64)]:
    parameter = torch.nn.Parameter(p.to(wide, copy=True))
    parameter.grad = g.to(wide, copy=True)
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.01, fused=True)
    optimizer.state[parameter] = {"step": torch.tensor(9.0), "exp_avg": m.to(wide, copy=True),
                                  "exp_avg_sq": v.to(wide, copy=True)}
    optimizer.step()
    state = optimizer.state[parameter]
    for k, value in [("p", parameter), ("m", state["exp_avg"]), ("v", state["exp_avg_sq"])]:
        tensors[f"AdamW|float32|{kind}|{k}"] = value.detach().clone()
for k, value in [("p", p), ("g", g), ("m", m), ("v", v)]:
    tensors[f"AdamW|float32|in|{k}"] = value

save_file(tensors, sys.argv[1], {"torch": torch.__version__})
