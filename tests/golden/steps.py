"""Makes golden training steps: losses and weights of 20 steps of transformers and PyTorch's AdamW.

    pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/steps.py

One checkpoint of each family gets steps.safetensors: the loss before each step, the norm of its gradients before
clipping, and all weights after the last step, in f64 without dropout. Every step reads training.safetensors, which
gradients.py makes. Biases and norms do not decay.
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
NAMES = ["bert-pre-training", "roberta-masked-lm", "albert-masked-lm", "electra-pre-training", "bart", "marian", "t5-v1_1",
         "gpt2", "llama"]
STEPS, WARMUP, PEAK, CLIP = 20, 5, 1e-3, 1.0


def rate(step):
    """Learning rate of a step, counted from 1: linear to the peak, then linear to 0."""
    return PEAK * step / WARMUP if step < WARMUP else PEAK * (STEPS - step) / (STEPS - WARMUP)


for name in NAMES:
    folder = HERE / name
    cls = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, cls).from_pretrained(folder, attn_implementation="eager").double().eval()
    batch = load_file(folder / "training.safetensors")
    stored = load_file(folder / "model.safetensors").keys()
    named = {k: v for k, v in model.named_parameters(remove_duplicate=False) if k in stored}
    # Marian's sinusoids are constants, but transformers forgets that when it loads a checkpoint.
    parameters = list({id(p): p for p in named.values()}.values())
    for p in model.parameters():
        p.requires_grad = any(p is other for other in parameters)
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.01},
              {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.999), eps=1e-6)
    losses, norms = [], []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, CLIP))
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        losses.append(loss.detach())
    weights = {k: v.detach().float().contiguous() for k, v in named.items()}
    save_file({"losses": torch.stack(losses).float(), "norms": torch.stack(norms).float(), **weights},
              folder / "steps.safetensors")
    print(f"{name:24} {losses[0]:.6f} .. {losses[-1]:.6f}")
