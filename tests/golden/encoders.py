"""Fixtures of encoders other than BERT, and of BERT's other heads; see generate.py.

Sizes are small and odd. Bare models have several layers.
"""

import string

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from common import HERE, checkpoint

SIZES = dict(vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40,
             max_position_embeddings=40)
# Lengths: one token, one more than 16, the maximum, and a few.
LENGTHS, COLUMNS = [13, 1, 17, 5], 17


def inputs(seed, pad, types):
    """A padded batch of texts; the last text is also padded on the left and has a hole."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, SIZES["vocab_size"], (len(LENGTHS), COLUMNS), generator=generator)
    mask, kinds = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, n in enumerate(LENGTHS):
        mask[row, :n] = 1
        kinds[row, n // 2 : n] = types - 1
    mask[-1] = 0
    # Heads read the first position, so the mask must not hide it.
    mask[-1, [0, 4, 8, 9, 16]] = 1
    ids[2, 7] = pad  # a visible padding token: RoBERTa does not count it
    return {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask, "token_type_ids": kinds}


def choices(seed, pad, types):
    """Two rows of three choices with up to nine tokens each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, SIZES["vocab_size"], (2, 3, 9), generator=generator)
    lengths = torch.tensor([[9, 4, 1], [6, 9, 2]])[..., None]
    place = torch.arange(9)
    mask = (place < lengths).long()
    kinds = ((place >= 3) & (place < lengths)).long() * (types - 1)
    return {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask, "token_type_ids": kinds}


def family(name, config, seed, pad, sizes, classes):
    for i, (kind, changes) in enumerate(classes.items()):
        title, (head, make) = {
            "bert": "Bert", "roberta": "Roberta", "albert": "Albert", "electra": "Electra"}[name], HEADS[kind]
        of = config(**{**sizes, **changes})
        checkpoint(f"{name}-{kind}", getattr(transformers, title + head), of, seed + i,
                   make(seed + i, pad, sizes["type_vocab_size"] if "type_vocab_size" in sizes else 2))


HEADS = {
    "model": ("Model", inputs), "model-wide": ("Model", inputs), "masked-lm": ("ForMaskedLM", inputs),
    "pre-training": ("ForPreTraining", inputs), "next-sentence": ("ForNextSentencePrediction", inputs),
    "sequence-classification": ("ForSequenceClassification", inputs),
    "token-classification": ("ForTokenClassification", inputs),
    "question-answering": ("ForQuestionAnswering", inputs), "multiple-choice": ("ForMultipleChoice", choices),
}
THREE = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
TAGS = {"id2label": {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}, "label2id": {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3}}

family("bert", transformers.BertConfig, 10, 0, SIZES, {
    "next-sentence": {}, "token-classification": TAGS, "question-answering": {"hidden_act": "silu"},
    "multiple-choice": {}})
family("roberta", transformers.RobertaConfig, 20, 1, {**SIZES, "type_vocab_size": 1, "layer_norm_eps": 1e-5}, {
    "model": {"num_hidden_layers": 2}, "masked-lm": {"hidden_act": "relu"},
    "sequence-classification": THREE, "token-classification": TAGS, "question-answering": {},
    "multiple-choice": {"hidden_act": "gelu_new"}})
# Six steps in two groups, and five steps, which two groups do not divide; elsewhere two steps of one layer.
ALBERT = {**SIZES, "hidden_size": 18, "num_attention_heads": 3, "intermediate_size": 28, "embedding_size": 10,
          "num_hidden_layers": 2}
family("albert", transformers.AlbertConfig, 30, 0, ALBERT, {
    "model": {"num_hidden_layers": 6, "num_hidden_groups": 2, "inner_group_num": 2},
    "masked-lm": {"num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2},
    "pre-training": {"hidden_act": "gelu", "tie_word_embeddings": False}, "sequence-classification": THREE,
    "token-classification": TAGS, "question-answering": {"hidden_act": "relu"}, "multiple-choice": {}})
family("electra", transformers.ElectraConfig, 40, 0, {**SIZES, "embedding_size": 10}, {
    "model": {"num_hidden_layers": 2}, "model-wide": {"embedding_size": 24, "hidden_act": "relu"},
    "masked-lm": {"hidden_act": "relu"}, "pre-training": {"hidden_act": "silu"},
    "sequence-classification": {**THREE, "hidden_act": "relu"}, "token-classification": TAGS,
    "question-answering": {}, "multiple-choice": {"summary_activation": "tanh"}})


def bert_tokenizer():
    words = "the cat sat on mat a dog is in house ran big red sun and not we they".split()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *".,?!", *"bcdefghst",
                  *("##" + end for end in ["ing", "ed", "s", "t", "e", "n", "a", "o", "r", "i", "l", "y", "d", "h"])]
    assert len(vocabulary) == SIZES["vocab_size"]
    t = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    t.decoder = decoders.WordPiece()
    t.add_special_tokens(vocabulary[:5])
    return t


def roberta_tokenizer():
    """A tokenizer of bytes and a few merges, whose mask token absorbs the space before it."""
    merges = ["t h", "a t", "Ġ th", "Ġth e", "Ġ c", "Ġc at", "Ġ s", "Ġs at", "o n", "Ġ on", "Ġ m", "Ġm at"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *string.ascii_lowercase, "Ġ", *".,?!'", *(m.replace(" ", "") for m in merges)]
    vocabulary = {w: i for i, w in enumerate([*tokens, "T", "<mask>"])}
    assert len(vocabulary) == SIZES["vocab_size"]
    t = Tokenizer(models.BPE(vocabulary, [tuple(m.split()) for m in merges], unk_token="<unk>"))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    t.add_special_tokens([*tokens[:4], AddedToken("<mask>", lstrip=True, special=True)])
    return t


# Every checkpoint above may get one of these.
(HERE / "tokenizers").mkdir(exist_ok=True)
bert_tokenizer().save(str(HERE / "tokenizers" / "bert.json"))
roberta_tokenizer().save(str(HERE / "tokenizers" / "roberta.json"))
