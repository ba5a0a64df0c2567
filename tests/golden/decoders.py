"""Makes the golden fixtures of decoders: tiny checkpoints, their inputs, and transformers' outputs and continuations.

    pip install torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/decoders.py [NAME ..]

Every directory holds

    config.json, generation_config.json, model.safetensors     as transformers saves them, except for `written`
    inputs.safetensors      input_ids, attention_mask; decoder_input_ids, decoder_attention_mask
    outputs.safetensors     outputs of the class in config.json; padding is zero
    bare.safetensors        outputs of the bare model of the family, if the class has a head
    generate.json           continuations, if the class is a causal LM:

        {"cases": [{"prompt": [ids] or "source": [ids], "max_new_tokens": n, "num_beams": b,
                    "length_penalty": p, "early_stopping": bool, "output": [ids]}, ..]}

A case has "prompt" if the model is a decoder and "source" if it has an encoder. `generate` ran each case alone,
without padding and without sampling, with these options and those in generation_config.json (end, start and padding
tokens, forced and forbidden tokens). "output" is the best sequence, without the prompt or the decoder's start token,
with the end token if there is one, and without padding. The seeds give some outputs that end before the limit and
some that do not. Outputs do not change in f32, nor if every parameter changes by a share of 1e-5: rounding decides no
choice.

Every parameter is random, also in norms and biases, so that outputs depend on all of them. Sizes are odd. Outputs are
computed in f64 from the f32 parameters, so that every difference is our error. As an exception, transformers always
computes the norms of LLaMA and T5 and rotary angles in f32.
"""

import copy
import itertools
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
VOCABULARY, NEW, COLUMNS, DECODER_COLUMNS = 43, 24, 37, 39
# Lengths: one token, one more than 16, the maximum, and a few; the decoder's are shorter and longer.
LENGTHS, DECODER_LENGTHS = [17, 1, 37, 5], [3, 18, 1, 39]
PROMPTS = [9, 1, 4, 17]
SEARCHES = [(1, 1.0, False), (4, 1.0, False), (4, 0.6, True), (4, 2.0, False)]


def randomise(model, seed, deviation):
    """Random parameters. Weights with a deviation of 0.3 make attention prefer some tokens and GELUs nonlinear."""
    generator = torch.Generator().manual_seed(seed)
    buffers = ((n, b) for n, b in model.named_buffers() if n.endswith("final_logits_bias"))
    for name, p in itertools.chain(model.named_parameters(), buffers):
        if name.endswith("embed_positions.weight") and not p.requires_grad:
            continue  # Marian's sinusoids
        mean = 1.0 if "norm" in name.lower() and name.endswith("weight") or ".ln_" in name and name.endswith("weight") else 0.0
        p.data = mean + deviation * torch.randn(p.shape, generator=generator)


def padded(lengths, columns, generator, left):
    """Ids and mask, padded on the right; the last row is padded on the left if requested."""
    ids = torch.randint(3, VOCABULARY, (len(lengths), columns), generator=generator)
    mask = torch.zeros_like(ids)
    for row, n in enumerate(lengths):
        mask[row, :n] = 1
    if left:
        mask[-1] = mask[-1].flip(0)
    return ids * mask, mask


def inputs(config, seed):
    generator = torch.Generator().manual_seed(seed)
    ids, mask = padded(LENGTHS, COLUMNS, generator, left=config.architectures != ["BartForSequenceClassification"])
    batch = {"input_ids": ids, "attention_mask": mask}
    if config.architectures == ["BartForSequenceClassification"]:
        # transformers requires equal numbers of end tokens; the last one decides.
        for row, n in enumerate(LENGTHS):
            batch["input_ids"][row, n - 1] = config.eos_token_id
    elif config.is_encoder_decoder and config.architectures != ["T5EncoderModel"]:
        ids, mask = padded(DECODER_LENGTHS, DECODER_COLUMNS, generator, left=False)
        batch |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return batch


def run(model, batch):
    with torch.no_grad():
        outputs = model.double()(**batch, use_cache=False)
    found = {}
    for name, values in outputs.items():
        if values.dim() == 3:  # padding is zero in our outputs, undefined in transformers'
            of_decoder = "decoder_input_ids" in batch and not name.startswith("encoder")
            mask = batch["decoder_attention_mask" if of_decoder else "attention_mask"]
            values = torch.where(mask.bool()[..., None], values, 0.0)
        found[name] = values.float().contiguous()
    return found


def generate(model, seed):
    """The cases of generate.json, or None if the seed gives no useful cases."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(3, VOCABULARY, (1, n), generator=generator) for n in PROMPTS]
    encodes = model.config.is_encoder_decoder

    def noisy(seed):
        other, generator = copy.deepcopy(model).double(), torch.Generator().manual_seed(seed)
        for p in other.parameters():
            p.data *= 1 + 1e-5 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        return other

    models = [copy.deepcopy(model).double(), model.float(), noisy(1), noisy(2)]
    cases = []
    for beams, penalty, early in SEARCHES:
        ended = []
        for ids in prompts:
            options = {"max_new_tokens": NEW, "num_beams": beams, "length_penalty": penalty, "early_stopping": early}
            start = 1 if encodes else ids.shape[1]
            found = [m.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)[0, start:].tolist()
                     for m in models]
            if any(other != found[0] for other in found):
                return None
            # A forced end is not the model's choice.
            ended.append(len(found[0]) < NEW)
            cases.append({"source" if encodes else "prompt": ids[0].tolist(), **options, "output": found[0]})
        if not any(ended) or all(ended):
            return None
    outputs = [json.dumps(case["output"]) for case in cases]
    # Some beams of each prompt differ from the greedy text, and some from each other.
    beams = [outputs[len(PROMPTS) * i : len(PROMPTS) * (i + 1)] for i in range(len(SEARCHES))]
    if beams[0] == beams[1] or len(set(map(tuple, beams[1:]))) < 2:
        return None
    return cases


def checkpoint(name, cls, config, seed, deviation=0.3, generation=None, untied=False, written=None, searched=range(400)):
    """Writes a fixture. `written` changes the saved config.json to spellings that transformers reads but never writes."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    config.architectures = [cls.__name__]
    for seed in (seed + i for i in searched):
        model = cls(copy.deepcopy(config)).eval()
        if untied:
            model.lm_head.weight = torch.nn.Parameter(torch.zeros(model.lm_head.weight.shape))
        randomise(model, seed, deviation)
        if generation is None:
            break
        model.generation_config = transformers.GenerationConfig(**generation)
        if cases := generate(model, seed):
            lines = ",\n".join(json.dumps(case) for case in cases)
            (folder / "generate.json").write_text(f'{{"cases": [\n{lines}\n]}}\n')
            break
    else:
        raise SystemExit(f"{name}: no seed is of use")
    print(name, "seed", seed)
    model.float().save_pretrained(folder)
    if generation is None:
        (folder / "generation_config.json").unlink(missing_ok=True)
    if written:
        path = folder / "config.json"
        fields = written(json.loads(path.read_text()))
        path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    batch = inputs(config, seed)
    save_file(batch, folder / "inputs.safetensors")
    outputs = run(model, batch)
    save_file(outputs, folder / "outputs.safetensors")
    # The saved model is the model that ran.
    for name, values in run(cls.from_pretrained(folder).eval(), batch).items():
        assert torch.equal(values, outputs[name]), (folder, name)
    if hasattr(model, "lm_head"):
        save_file(run(transformers.AutoModel.from_pretrained(folder).eval(), batch), folder / "bare.safetensors")


LLAMA = dict(vocab_size=VOCABULARY, hidden_size=20, intermediate_size=34, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=6, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
GPT2 = dict(vocab_size=VOCABULARY, n_embd=21, n_inner=50, n_layer=2, n_head=3, n_positions=48, bos_token_id=2, eos_token_id=2)
T5 = dict(vocab_size=VOCABULARY, d_model=18, d_kv=5, d_ff=26, num_layers=2, num_heads=3, relative_attention_num_buckets=8,
          relative_attention_max_distance=20, decoder_start_token_id=0)
BART = dict(vocab_size=VOCABULARY, d_model=15, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
            decoder_attention_heads=5, encoder_ffn_dim=26, decoder_ffn_dim=22, max_position_embeddings=48)
MARIAN = dict(BART, activation_function="swish", scale_embedding=True, pad_token_id=42, decoder_start_token_id=42, eos_token_id=0)
of_decoder = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
of_gpt2 = dict(bos_token_id=2, eos_token_id=2, pad_token_id=2)
of_t5 = dict(decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
of_bart = dict(decoder_start_token_id=2, bos_token_id=0, eos_token_id=2, pad_token_id=1, forced_bos_token_id=0, forced_eos_token_id=2)
of_marian = dict(decoder_start_token_id=42, eos_token_id=0, pad_token_id=42, forced_eos_token_id=0, bad_words_ids=[[42]])


def old_rope(fields):
    """Changes a config to the spelling of transformers 4."""
    rope = fields.pop("rope_parameters")
    fields["rope_theta"] = rope.pop("rope_theta")
    fields["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    return fields


def old_t5(fields):
    """Changes a config to the spelling of transformers 4, which most checkpoints of T5 1.1 have."""
    del fields["scale_decoder_outputs"]
    return {**fields, "tie_word_embeddings": False}


def llama(**changes):
    return transformers.LlamaConfig(**{**LLAMA, **changes})


FIXTURES = {
    "llama": lambda name: checkpoint(
        name, transformers.LlamaForCausalLM, llama(tie_word_embeddings=False), 1000, generation=of_decoder),
    "llama-tied-llama3": lambda name: checkpoint(
        name, transformers.LlamaForCausalLM,
        llama(tie_word_embeddings=True, head_dim=8, num_key_value_heads=1, rope_parameters=dict(
            rope_type="llama3", rope_theta=1000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=16)),
        2000, generation=of_decoder),
    "llama-linear-biased": lambda name: checkpoint(
        name, transformers.LlamaModel,
        llama(hidden_size=24, head_dim=None, num_key_value_heads=4, attention_bias=True, rope_parameters=dict(
            rope_type="linear", rope_theta=500.0, factor=2.5)),
        3, written=old_rope),
    "gpt2": lambda name: checkpoint(
        name, transformers.GPT2LMHeadModel, transformers.GPT2Config(**GPT2), 4000, generation=of_gpt2),
    "gpt2-model": lambda name: checkpoint(
        name, transformers.GPT2Model, transformers.GPT2Config(**{
            **GPT2, "n_inner": None, "n_embd": 15, "activation_function": "relu", "scale_attn_by_inverse_layer_idx": True}), 5),
    "t5": lambda name: checkpoint(
        name, transformers.T5ForConditionalGeneration, transformers.T5Config(**T5, num_decoder_layers=1), 6000,
        deviation=0.5, generation=of_t5),
    "t5-v1_1": lambda name: checkpoint(
        name, transformers.T5ForConditionalGeneration,
        transformers.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False), 7000,
        generation=of_t5, untied=True, written=old_t5),
    "t5-flan": lambda name: checkpoint(
        name, transformers.T5ForConditionalGeneration,
        transformers.T5Config(**{**T5, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
                              feed_forward_proj="gated-gelu", tie_word_embeddings=False), 8000,
        generation=of_t5, untied=True),
    "bart": lambda name: checkpoint(
        name, transformers.BartForConditionalGeneration, transformers.BartConfig(**BART, forced_bos_token_id=0), 9000,
        generation=of_bart),
    "bart-sequence-classification": lambda name: checkpoint(
        name, transformers.BartForSequenceClassification,
        transformers.BartConfig(**BART, num_labels=4, activation_function="relu", scale_embedding=True), 10),
    "marian": lambda name: checkpoint(
        name, transformers.MarianMTModel, transformers.MarianConfig(**MARIAN), 11000, generation=of_marian),
    "marian-separate": lambda name: checkpoint(
        name, transformers.MarianMTModel,
        transformers.MarianConfig(**{**MARIAN, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 46,
                                     "scale_embedding": False}), 12),
}

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
for name in sys.argv[1:] or FIXTURES:
    FIXTURES[name](name)
