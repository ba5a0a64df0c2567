"""Makes the GGUF fixtures with the format's own Python package, and the expected results of reading them.

    pip install gguf==0.19.0 torch==2.15.0 safetensors==0.8.0 numpy==2.4.6 tokenizers==0.23.3 sentencepiece==0.2.3
    python tests/golden/generate_gguf.py

gguf/blocks.gguf      a tensor of random bytes for each block type; blocks.safetensors: the values
gguf/llama.gguf       a LLaMA of two layers with tensors of all types; llama.safetensors: the same tensors with
                      Hugging Face's names and order of rows
gguf/bert-model.gguf  the checkpoint of bert-model and its tokenizer
gguf/PRE.gguf         a byte-level BPE tokenizer with PRE as its tokenizer.ggml.pre
gguf/pieces.gguf      a SentencePiece model with bytes for unknown letters
gguf/texts.json       texts, and their ids by the tokenizers above
"""

import io
import json
import pathlib

import gguf
import numpy as np
import sentencepiece
from gguf import GGMLQuantizationType as Type, TokenType
from safetensors.numpy import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
OUT = HERE / "gguf"
RANDOM = np.random.default_rng(7)

CORPUS = [
    "the quick brown fox jumps over the lazy dog", "she sells sea shells by the sea shore", "to be or not to be",
    "one fish two fish red fish blue fish", "the rain in spain stays mainly in the plain", "a stitch in time saves nine",
    "The year 1984 had 366 days, 2023 had 365.", "for i in range(10): print(i)", "le cœur a ses raisons que la raison ne connaît point",
]
TEXTS = CORPUS + [
    "", " ", "  ", "a", " a", "a ", "  a  b   c    ", "\n", "\n\n", "a\nb", "a \n b", "tab\tand\ttabs", "\t\t", "a\r\nb",
    "1", "12", "123", "1234", "12345", " 1 2", "x  1", "x   12 34", "3.14159", "1,000,000", "v1.2.3-rc4", "²³½", "٣٤٥",
    "don't you're I'LL we'Ve", "Don'T", "'quoted'", "\"double\"", "hello, world! how-are-you?", "a.b.c", "...", "?!?!", "$5 + 5 = <10> ~ ^ | `x`",
    "fn main() { println!(\"{}\", x[0] + 1); }", "    indented\n        twice", "snake_case CamelCase SCREAMING_CASE",
    "naïve café", "Straße", "Привет мир", "你好，世界", "こんにちは", "مرحبا", "🎉🚀", "👩‍👩‍👧", "e\u0301", "\u00a0nbsp", "\u2003wide", "\u3000",
    "<|im_start|>user\nhi<|im_end|>", "<|im_start|><|im_end|>", "a<|im_end|> b", "<s>x</s>", "<unk>", "▁", "a▁b", "Ġ", "\x00", "\x7f",
]


def llama():
    """A LLaMA of two layers, with 2 query heads and one kv head of width 16, and states of width 32."""
    hidden, heads, kv, words = 32, 2, 1, 40
    names = {
        "attn_q": ("self_attn.q_proj", hidden, heads), "attn_k": ("self_attn.k_proj", kv * 16, kv),
        "attn_v": ("self_attn.v_proj", kv * 16, 0), "attn_output": ("self_attn.o_proj", hidden, 0),
        "ffn_gate": ("mlp.gate_proj", hidden, 0), "ffn_up": ("mlp.up_proj", hidden, 0), "ffn_down": ("mlp.down_proj", hidden, 0),
    }
    types = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q8_0]
    w = gguf.GGUFWriter(OUT / "llama.gguf", "llama")
    w.add_context_length(64), w.add_embedding_length(hidden), w.add_block_count(2), w.add_feed_forward_length(hidden)
    w.add_head_count(heads), w.add_head_count_kv(kv), w.add_rope_dimension_count(16), w.add_rope_freq_base(5e5)
    w.add_layer_norm_rms_eps(1e-5), w.add_bos_token_id(1), w.add_eos_token_id(2)
    expected = {}

    def add(name, hf, shape, kind, interleaved=0):
        value = RANDOM.normal(0, 0.3, shape).astype(np.float32)
        stored = gguf.quants.quantize(value, kind)
        value = gguf.quants.dequantize(stored, kind).reshape(shape)
        expected[hf] = np.ascontiguousarray(value)
        if interleaved:
            # llama.cpp's order: the rows of the first and the second half of a head alternate.
            stored = stored.reshape(interleaved, 2, shape[0] // interleaved // 2, -1).swapaxes(1, 2).reshape(stored.shape)
        w.add_tensor(name, stored, raw_dtype=kind)

    add("token_embd.weight", "model.embed_tokens.weight", (words, hidden), Type.Q8_0)
    add("output_norm.weight", "model.norm.weight", (hidden,), Type.F32)
    for n in range(2):
        for norm, hf in [("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")]:
            add(f"blk.{n}.{norm}.weight", f"model.layers.{n}.{hf}.weight", (hidden,), Type.F32)
        for i, (name, (hf, out, interleaved)) in enumerate(names.items()):
            kind = types[(i + 4 * n + 3) % 7]
            add(f"blk.{n}.{name}.weight", f"model.layers.{n}.{hf}.weight", (out, hidden), kind, interleaved)
    finish(w)
    save_file(expected, OUT / "llama.safetensors")


def blocks():
    w = gguf.GGUFWriter(OUT / "blocks.gguf", "llama")
    expected = {}
    # Offsets of the f16 scales and minima in a block.
    scales = {Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}
    for kind, places in scales.items():
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        stored = RANDOM.integers(0, 256, (3, 2, size), dtype=np.uint8)
        for at in places:
            stored[:, :, at : at + 2] = RANDOM.normal(0, 1, (3, 2, 1)).astype(np.float16).view(np.uint8)
        stored = stored.reshape(3, 2 * size)
        expected[kind.name] = gguf.quants.dequantize(stored, kind)
        w.add_tensor(kind.name, stored, raw_dtype=kind)
    finish(w)
    save_file(expected, OUT / "blocks.safetensors")


def bert():
    source = load_file(HERE / "bert-model" / "model.safetensors")
    config = json.loads((HERE / "bert-model" / "config.json").read_text())
    ids = {i: word for word, i in json.loads((HERE / "bert-model" / "tokenizer.json").read_text())["model"]["vocab"].items()}
    words = [ids.get(i, f"[unused{i}]") for i in range(config["vocab_size"])]
    w = gguf.GGUFWriter(OUT / "bert-model.gguf", "bert")
    w.add_context_length(config["max_position_embeddings"]), w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"]), w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"]), w.add_layer_norm_eps(config["layer_norm_eps"])
    w.add_causal_attention(False), w.add_pooling_type(gguf.PoolingType.MEAN)
    special = [word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") for word in words]
    mark = lambda word, plain: word if plain else word[2:] if word.startswith("##") else "\u2581" + word
    w.add_tokenizer_model("bert"), w.add_token_type_count(2)
    w.add_token_list([mark(word, plain) for word, plain in zip(words, special)])
    w.add_token_types([TokenType.CONTROL if plain else TokenType.NORMAL for plain in special])
    w.add_pad_token_id(0), w.add_unk_token_id(1), w.add_bos_token_id(2), w.add_sep_token_id(3), w.add_mask_token_id(4)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, value in source.items():
        if not name.startswith("pooler."):
            w.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), value)
    finish(w)


def byte_level():
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    # Splits of the published tokenizer.json files of GPT-2, SmolLM2 and LLaMA 3; LLaMA 3's as in llama.cpp.
    kinds = {
        "gpt-2": words,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words]),
        "llama-bpe": pre_tokenizers.Sequence([split(llama3), letters]),
        "default": pre_tokenizers.Sequence([split(r"[\p{P}\$\+<=>\^~\|]+"), split(gpt2), split(r"\p{N}+"), split("[0-9][0-9][0-9]"), letters]),
    }
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    ids = {}
    for pre, pre_tokenizer in kinds.items():
        t = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
        t.pre_tokenizer, t.decoder = pre_tokenizer, decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        t.train_from_iterator(TEXTS * 2, trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
        model = json.loads(t.to_str())["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].get)
        w = gguf.GGUFWriter(OUT / f"{pre}.gguf", "llama")
        w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre(pre), w.add_token_list(tokens)
        w.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
        w.add_token_merges([" ".join(merge) for merge in model["merges"]])
        w.add_bos_token_id(1), w.add_eos_token_id(2), w.add_unk_token_id(0), w.add_chat_template("{{ messages }}")
        if pre != "llama-bpe":
            w.add_add_bos_token(False)
        finish(w)
        first = [1] if pre == "llama-bpe" else []
        ids[pre] = [first + t.encode(text).ids for text in TEXTS]
    return ids


def pieces():
    model = io.BytesIO()
    # The model lacks some letters, which must become bytes.
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True, character_coverage=0.99,
        normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1, minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    w = gguf.GGUFWriter(OUT / "pieces.gguf", "llama")
    n = sp.vocab_size()
    kind = lambda i: (TokenType.UNKNOWN if sp.is_unknown(i) else TokenType.CONTROL if sp.is_control(i)
                      else TokenType.BYTE if sp.is_byte(i) else TokenType.NORMAL)
    w.add_tokenizer_model("llama"), w.add_tokenizer_pre("default"), w.add_token_list([sp.id_to_piece(i) for i in range(n)])
    w.add_token_scores([sp.get_score(i) for i in range(n)]), w.add_token_types([kind(i) for i in range(n)])
    w.add_bos_token_id(sp.bos_id()), w.add_eos_token_id(sp.eos_id()), w.add_unk_token_id(sp.unk_id())
    finish(w)
    return [[sp.bos_id()] + sp.encode(text) for text in TEXTS], [sp.decode(sp.encode(text)) for text in TEXTS]


def finish(w):
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


OUT.mkdir(exist_ok=True)
llama(), blocks(), bert()
ids = byte_level()
ids["pieces"], decoded = pieces()
(OUT / "texts.json").write_text(json.dumps({"texts": TEXTS, "ids": ids, "decoded": decoded}) + "\n")
