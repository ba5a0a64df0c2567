"""Helpers of the fixtures of all families: random parameters, and checkpoints with their inputs and outputs."""

import pathlib

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent


def randomise(model, seed):
    """Random parameters. Weights with a deviation of 0.3 make attention prefer some tokens and GELUs nonlinear."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        mean = 1.0 if name.lower().replace("_", "").endswith("layernorm.weight") else 0.0
        p.data = mean + 0.3 * torch.randn(p.shape, generator=generator)


def checkpoint(name, cls, config, seed, batch):
    """Writes a model of random parameters, `batch`, and the model's outputs for `batch` in f64."""
    folder = HERE / name
    config.architectures = [cls.__name__]
    model = cls(config).eval()
    randomise(model, seed)
    model.tie_weights()
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file(batch, folder / "inputs.safetensors")
    with torch.no_grad():
        outputs = model.double()(**batch)
    visible = batch["attention_mask"].bool()

    # Padding is zero in our outputs, and undefined in transformers'.
    def without_padding(v):
        if v.shape[: visible.dim()] != visible.shape:
            return v
        return torch.where(visible.reshape(visible.shape + (1,) * (v.dim() - visible.dim())), v, 0.0)

    save_file({k: without_padding(v).float().contiguous() for k, v in outputs.items()}, folder / "outputs.safetensors")
    return model
