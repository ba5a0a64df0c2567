"""Pre-trains transformers' BERT with masked LM on the text of run.sh, to be compared with `pretrain --recipe bert`.

    python transformers_masked_lm.py TOKENIZER_JSON TRAIN_DIR EVAL_DIR STEPS RATE

Random windows of 126 tokens, no next sentence; size, batch, schedule and optimizer are those of the run `bert`.
"""

import glob
import sys

import tokenizers
import torch
import transformers

tokenizer, train, held_out = sys.argv[1:4]
steps, rate = int(sys.argv[4]), float(sys.argv[5])
torch.set_num_threads(1)
torch.manual_seed(1)
tokenizer = tokenizers.Tokenizer.from_file(tokenizer)
words = tokenizer.get_vocab_size()
cls, sep, mask = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]"))


def read(folder):
    texts = (open(path, errors="ignore").read() for path in sorted(glob.glob(f"{folder}/*")))
    return torch.tensor([i for text in texts for i in tokenizer.encode(text, add_special_tokens=False).ids])


def batch(tokens, generator):
    """16 windows; of 15% of their tokens 80% are masked, 10% random, 10% left."""
    starts = torch.randint(0, len(tokens) - 126, (16,), generator=generator)
    ends = torch.tensor([cls]), torch.tensor([sep])
    ids = torch.stack([torch.cat([ends[0], tokens[s : s + 126], ends[1]]) for s in starts])
    chosen = (torch.rand(ids.shape, generator=generator) < 0.15) & (ids != cls) & (ids != sep)
    labels = torch.where(chosen, ids, -100)
    draw = torch.rand(ids.shape, generator=generator)
    ids = torch.where(chosen & (draw < 0.8), mask, ids)
    other = torch.randint(5, words, ids.shape, generator=generator)
    return {"input_ids": torch.where(chosen & (draw >= 0.9), other, ids), "labels": labels}


train, held_out = read(train), read(held_out)
config = transformers.BertConfig(
    vocab_size=words, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512,
    max_position_embeddings=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
model = transformers.BertForMaskedLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
generator = torch.Generator().manual_seed(1)
for step in range(1, steps + 1):
    for group in optimizer.param_groups:
        group["lr"] = rate * min(step / (steps / 10), (steps - step) / (steps * 0.9))
    model.train()
    loss = model(**batch(train, generator)).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step % 200 == 0:
        model.eval()
        evaluation = torch.Generator().manual_seed(2)
        with torch.no_grad():
            mean = sum(model(**batch(held_out, evaluation)).loss.item() for _ in range(20)) / 20
        print(f"step {step}: loss {loss.item():.3f}, held-out {mean:.3f}", flush=True)
