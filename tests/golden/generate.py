"""Makes the golden fixtures: tiny checkpoints, their inputs, and transformers' outputs.

    pip install torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/generate.py

If TILEWRIGHT_MODELS names a directory with all-minilm-l6-v2 (sentence-transformers/all-MiniLM-L6-v2), its embeddings
of SENTENCES are made too; otherwise that fixture stays unchanged.

Every parameter is random, also in norms and biases, so that outputs depend on all of them. Sizes are odd: 12 columns
in a head, 36 in a state, 52 in the feed-forward layer; the sizes in encoders.py are smaller. Outputs are computed in
f64 from the f32 parameters, so that every difference is our error.
"""

import json
import os
import pathlib
import string

import torch
import transformers

import common
import encoders  # makes the fixtures of other encoders
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

HERE = common.HERE
WORDS = "the cat sat on mat a dog is in house ran big red sun sea and or not we they was word play ##ing ##ed ##s".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *string.ascii_lowercase, *".,?!'-",
              *("##" + c for c in string.ascii_lowercase)]
SIZES = dict(vocab_size=len(VOCABULARY), hidden_size=36, num_hidden_layers=2, num_attention_heads=3,
             intermediate_size=52, max_position_embeddings=40, type_vocab_size=2)
# Lengths: one token, one more than 16, the maximum, and a few.
LENGTHS, COLUMNS = [17, 1, 23, 5], 23
TEXTS = ["The cat sat on the mat.", "A dog ran!", "we play and they played, is it not a big red house?"]

SENTENCES = [
    "", "a", "Hello, world!", "The quick brown fox jumps over the lazy dog.", "A man is eating food.",
    "Someone is having a meal.", "The girl is carrying a baby.", "Der Hund läuft schnell durch den Wald.",
    "La tour Eiffel a été construite en 1889.", "今日は天気がいいですね。", "我喜欢学习机器学习。", "Привет, как дела?",
    "مرحبا بالعالم", "Emoji 🎉🚀 and ﬁligature, naïve café, ½ ⅔", "UPPER lower MiXeD CaSe 123-456.789e-10",
    "fn main() { println!(\"{}\", vec![1, 2, 3].iter().sum::<i32>()); }",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis", "tabs\tand\nnew lines   and spaces",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
    "Every sentence is longer than the one before it. " * 40,
]


def inputs(seed):
    """A padded batch of texts with two token types; the last text is padded on the left and has a hole."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, SIZES["vocab_size"], (len(LENGTHS), COLUMNS), generator=generator)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, n in enumerate(LENGTHS):
        mask[row, :n] = 1
        types[row, n // 2 : n] = 1
    mask[-1] = 0
    mask[-1, [0, 8, 9, 11, 22]] = 1
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types}


def checkpoint(name, cls, seed, **changes):
    return common.checkpoint(name, cls, transformers.BertConfig(**SIZES, **changes), seed, inputs(seed))


def tokenizer():
    t = Tokenizer(models.WordPiece({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    t.add_special_tokens(VOCABULARY[:5])
    t.enable_padding(length=32)  # as in many files; a ragged batch must ignore it
    return t


def sentences(model, folder):
    """Makes the checkpoint a sentence-transformers directory: mean pooling, normalised, at most 16 tokens."""
    module = lambda i, path, kind: {"idx": i, "name": str(i), "path": path, "type": "sentence_transformers.models." + kind}
    files = {
        "modules.json": [module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling"), module(2, "2_Normalize", "Normalize")],
        "1_Pooling/config.json": {"word_embedding_dimension": 36, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
        "tokenizer_config.json": {"mask_token": "[MASK]", "model_max_length": 40},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    t = tokenizer()
    t.save(str(folder / "tokenizer.json"))
    t.no_padding()
    t.enable_truncation(16)
    vectors = []
    for text in TEXTS:
        ids = torch.tensor([t.encode(text).ids])
        with torch.no_grad():
            vectors.append(torch.nn.functional.normalize(model(input_ids=ids).last_hidden_state.mean(1)[0], dim=0))
    (folder / "texts.json").write_text(json.dumps(TEXTS, indent=1) + "\n")
    save_file({"embeddings": torch.stack(vectors).float()}, folder / "embeddings.safetensors")


bare = checkpoint("bert-model", transformers.BertModel, 1)
sentences(bare, HERE / "bert-model")
checkpoint("bert-masked-lm", transformers.BertForMaskedLM, 2, hidden_act="gelu_new", layer_norm_eps=1e-3)
tokenizer().save(str(HERE / "bert-masked-lm" / "tokenizer.json"))
checkpoint("bert-pre-training", transformers.BertForPreTraining, 3)
checkpoint("bert-sequence-classification", transformers.BertForSequenceClassification, 4, num_labels=3, hidden_act="relu")

if "TILEWRIGHT_MODELS" in os.environ:
    source, folder = pathlib.Path(os.environ["TILEWRIGHT_MODELS"]) / "all-minilm-l6-v2", HERE / "all-minilm-l6-v2"
    folder.mkdir(exist_ok=True)
    real, t = transformers.AutoModel.from_pretrained(source).eval(), transformers.AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        batch = t(SENTENCES, padding=True, truncation=True, max_length=256, return_tensors="pt")
        weight = batch["attention_mask"][..., None].float()
        mean = (real(**batch).last_hidden_state * weight).sum(1) / weight.sum(1)
    save_file({"embeddings": torch.nn.functional.normalize(mean)}, folder / "embeddings.safetensors")
    (folder / "texts.json").write_text(json.dumps(SENTENCES, indent=1, ensure_ascii=False) + "\n")
