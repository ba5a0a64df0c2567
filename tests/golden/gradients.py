"""Makes the golden gradients: labels for the checkpoints of generate.py and decoders.py, and transformers' gradients.

    pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/gradients.py

Each checkpoint with a loss gets training.safetensors, its inputs and labels, and gradients.safetensors: the loss and the
gradient of every parameter, computed in f64 from the f32 parameters without dropout. Some labels are -100.
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
IGNORED = -100


def tokens(batch, words, generator, share):
    """Labels for a share of the visible tokens."""
    visible = batch["attention_mask"].bool()
    labels = torch.randint(0, words, visible.shape, generator=generator)
    chosen = visible & (torch.rand(visible.shape, generator=generator) < share)
    chosen[0, 0] = True
    return torch.where(chosen, labels, IGNORED)


def labelled(cls, config, batch, generator):
    """Inputs and labels of a class; None if the class has no loss."""
    rows = batch["input_ids"].shape[0]
    classes = lambda n: torch.randint(0, n, (rows,), generator=generator)
    if cls.endswith("ForMaskedLM"):
        return {**batch, "labels": tokens(batch, config.vocab_size, generator, 0.3)}
    if cls == "ElectraForPreTraining":
        # Every visible token has a label there; transformers reads the others, too, unless the mask hides them.
        return {**batch, "labels": torch.randint(0, 2, batch["input_ids"].shape, generator=generator)}
    if cls in ("BertForPreTraining", "AlbertForPreTraining"):
        name = "next_sentence_label" if cls.startswith("Bert") else "sentence_order_label"
        return {**batch, "labels": tokens(batch, config.vocab_size, generator, 0.3), name: classes(2)}
    if cls == "BertForNextSentencePrediction":
        return {**batch, "labels": classes(2)}
    if cls.endswith("ForSequenceClassification"):
        return {**batch, "labels": classes(config.num_labels)}
    if cls.endswith("ForTokenClassification"):
        return {**batch, "labels": tokens(batch, config.num_labels, generator, 0.7)}
    if cls.endswith("ForMultipleChoice"):
        return {**batch, "labels": classes(batch["input_ids"].shape[1])}
    if cls.endswith("ForQuestionAnswering"):
        # Without padding, whose logits transformers' loss includes.
        ids = torch.randint(5, config.vocab_size, (3, 11), generator=generator)
        ends = lambda: torch.randint(0, 11, (3,), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "start_positions": ends(),
                "end_positions": torch.tensor([0, 10, 11])}  # the last one is outside, so it is ignored
    if cls.endswith(("LMHeadModel", "ForCausalLM")):
        batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
        # Padding on the right only, and no holes: labels are those of the next column.
        columns = batch["input_ids"].shape[1]
        lengths = batch["attention_mask"].sum(1)
        batch["attention_mask"] = (torch.arange(columns) < lengths[:, None]).long()
        return {**batch, "labels": torch.where(batch["attention_mask"] == 1, batch["input_ids"], IGNORED)}
    if cls.endswith(("ForConditionalGeneration", "MTModel")):
        labels = torch.randint(3, config.vocab_size, (rows, 9), generator=generator)
        labels[0, 6:] = IGNORED
        labels[1, 2] = IGNORED
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    return None


for number, folder in enumerate(sorted(path.parent for path in HERE.glob("*/inputs.safetensors"))):
    described = json.loads((folder / "config.json").read_text())
    cls = described["architectures"][0]
    model = getattr(transformers, cls).from_pretrained(folder, attn_implementation="eager").double().eval()
    batch = labelled(cls, model.config, load_file(folder / "inputs.safetensors"),
                     torch.Generator().manual_seed(1000 + number))
    if batch is None:
        continue
    loss = model(**batch).loss
    loss.backward()
    stored = load_file(folder / "model.safetensors").keys()
    found = {name: p for name, p in model.named_parameters(remove_duplicate=False) if name in stored}
    # A parameter that the loss does not read has no gradient.
    gradients = {name: p.grad for name, p in found.items() if p.grad is not None}
    save_file({k: v.contiguous() for k, v in batch.items()}, folder / "training.safetensors")
    save_file({"loss": loss.detach().float(), **{k: v.float().contiguous() for k, v in gradients.items()}},
              folder / "gradients.safetensors")
    print(f"{folder.name:32} {cls:36} {loss.item():.6f}")
