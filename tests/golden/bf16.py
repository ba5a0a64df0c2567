"""Makes bf16.json: errors of transformers' own gradients in bf16, on the inputs of gradients.py.

    pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/bf16.py

For each checkpoint: the norm of the difference of all gradients, and the difference of the losses, between f32
parameters under torch.autocast in bf16 and the f64 values of gradients.safetensors, each divided by the f64 value.
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).parent
errors = {}
for folder in sorted(path.parent for path in HERE.glob("*/gradients.safetensors")):
    cls = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, cls).from_pretrained(folder, attn_implementation="eager").float().eval()
    expected = load_file(folder / "gradients.safetensors")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**load_file(folder / "training.safetensors")).loss
    loss.backward()
    found = dict(model.named_parameters(remove_duplicate=False))
    square = lambda tensors: sum(t.double().square().sum().item() for t in tensors)
    exact = {name: value for name, value in expected.items() if name != "loss"}
    difference = square(found[name].grad.double() - value.double() for name, value in exact.items())
    errors[folder.name] = {
        "gradients": round((difference / square(exact.values())) ** 0.5, 6),
        "loss": round(abs(loss.item() / expected["loss"].item() - 1), 6),
    }
    print(folder.name, errors[folder.name])
(HERE / "bf16.json").write_text(json.dumps(errors, indent=1) + "\n")
