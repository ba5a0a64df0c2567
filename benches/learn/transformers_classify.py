"""Fine-tunes a sequence classifier with transformers, with the settings of `tilewright finetune --task classify`.

usage: transformers_classify.py MODEL TRAIN.tsv EVAL.tsv SEED EPOCHS LR BATCH MAX_LENGTH

The order of the sentences and the masks of dropout are others than tilewright's for the same seed.
"""
import random, sys, time

import torch
from transformers import AutoTokenizer, AutoModelForSequenceClassification, get_linear_schedule_with_warmup
model_dir, train, evaluate, seed, epochs, lr, batch, max_length = sys.argv[1:9]
seed, epochs, lr, batch, max_length = int(seed), int(epochs), float(lr), int(batch), int(max_length)
torch.set_num_threads(1); torch.manual_seed(seed)
read = lambda p: [l.rstrip("\n").split("\t") for l in open(p)][1:]
rows, held = read(train), read(evaluate)
names = sorted({l for _, l in rows})
tok = AutoTokenizer.from_pretrained(model_dir)
model = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=len(names))
no = ("bias", "LayerNorm.weight")
groups = [{"params": [p for n, p in model.named_parameters() if not n.endswith(no)], "weight_decay": 0.01},
          {"params": [p for n, p in model.named_parameters() if n.endswith(no)], "weight_decay": 0.0}]
opt = torch.optim.AdamW(groups, lr=lr)
steps = epochs * -(-len(rows) // batch)
sched = get_linear_schedule_with_warmup(opt, steps // 10, steps)
enc = lambda part: tok([t for t, _ in part], truncation=True, max_length=max_length, padding=True, return_tensors="pt")
start = time.time()
for epoch in range(epochs):
    model.train(); random.Random(seed * 1000 + epoch).shuffle(rows)
    for i in range(0, len(rows), batch):
        part = rows[i:i + batch]
        loss = model(**enc(part), labels=torch.tensor([names.index(l) for _, l in part])).loss
        opt.zero_grad(); loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step(); sched.step()
    model.eval(); right = 0
    with torch.no_grad():
        for i in range(0, len(held), 32):
            part = held[i:i + 32]
            found = model(**enc(part)).logits.argmax(-1)
            right += sum(names[f] == l for f, (_, l) in zip(found.tolist(), part))
    print(f"seed {seed} epoch {epoch + 1}: accuracy {right / len(held):.4f}, {time.time() - start:.0f} s", flush=True)
