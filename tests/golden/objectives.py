"""Statistics of the official pre-training data code on a small corpus: objectives/corpus.json and objectives/*.json.

    python -m venv venv && venv/bin/pip install cython==3.3.1 gin-config==0.5.0 babel==2.19.0 numpy==2.1.3 \
        tensorflow-cpu==2.19.1 torch==2.15.0 && venv/bin/pip install --no-deps seqio==0.0.20
    venv/bin/python tests/golden/objectives.py CHECKOUTS [bert albert electra t5 roberta bart]

CHECKOUTS holds the repositories `bert`, `albert`, `electra` (google-research), `t5` (text-to-text-transfer-transformer)
and `fairseq` (facebookresearch). Their files are imported, and must be those of COMMITS: their SHA-256 is checked.

A statistic is a table from a value to [mean, standard error] of its count in one pass over the corpus. Passes differ in
their seeds alone, so the errors hold whatever depends on what within a pass.
"""

import collections
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import json
import math
import pathlib
import random
import sys
import tempfile
import types
from unittest import mock

COMMITS = {
    "bert": "eedf5716ce1268e56f0a50264a88cafad334ac61",
    "albert": "b772393d3dae115b493258ce8e37c17b2cc62100",
    "electra": "8a46635f32083ada044d7e9ad09604742600ee7b",
    "t5": "e081111ccd51df425aa7124e8e311ed6d403d767",
    "fairseq": "3d262bb25690e4eb2e7d3c1309b1e9c406ca4b99",
}
FILES = {
    "bert/create_pretraining_data.py": "7c3df7749e6327f85fdd00adaf6ed55d6399ee58d3d844d2281db60b36129b21",
    "albert/create_pretraining_data.py": "4948a9ba32ecc52b09fec4a71fcacf7c6b0e1ba284d6c10021de687e6a388ee0",
    "electra/build_pretraining_dataset.py": "a539f5c9a52f3d596b44691a2bb69dee1b2be9666ab907a6e46119f87d7a6b17",
    "electra/pretrain/pretrain_helpers.py": "b7e6a0ad31ef6189f68c91d39e951d11740158c0831e44001b41e0357c03b636",
    "t5/t5/data/preprocessors.py": "95478ab06526a771b5936222ee78fe0f8ff603f62082ecef3126dd78f0fad957",
    "fairseq/fairseq/data/mask_tokens_dataset.py": "2d3b64a2dea0d7f63ea0ec1f0eb2dc6c5d80f8e43da95bd2750da682e1020b79",
    "fairseq/fairseq/data/denoising_dataset.py": "161791690e02b68b74bef6c8b4b87503120c058650ce3ac43dfe3888d9dc142d",
    "fairseq/fairseq/data/token_block_utils_fast.pyx": "b1736aa334b1c2f82c3b9b1a6e11d1396a7b1066475966c7379cbda72d078120",
}

HERE = pathlib.Path(__file__).parent / "objectives"
CHECKOUTS = pathlib.Path(sys.argv[1])

VOCABULARY = 1000
# Last token of every sentence, and of no other place.
FULL_STOP = 10


def starts_word(token):
    return token % 3 != 0


def make_corpus():
    """Documents of sentences. Some documents have one sentence, some sentences exceed every sequence length."""
    draw = random.Random(17)
    documents = []
    for _ in range(40):
        sentences = draw.choice([1, 1, 2, 3, 5, 8, 13])
        lengths = [draw.choice([2, 3, 5, 8, 13, 21, draw.randint(2, 30)]) for _ in range(sentences)]
        documents.append([[draw.randrange(11, 900) for _ in range(n - 1)] + [FULL_STOP] for n in lengths])
    documents[3] = [[draw.randrange(11, 900) for _ in range(n - 1)] + [FULL_STOP] for n in (150, 7, 90)]
    return documents


class Statistics:
    """Counts of values in each pass."""

    def __init__(self):
        self.passes = []

    def next_pass(self):
        self.passes.append(collections.defaultdict(collections.Counter))

    def count(self, name, value):
        self.passes[-1][name][str(value)] += 1

    def write(self, file, **other):
        n = len(self.passes)
        tables = {}
        for name in sorted({name for found in self.passes for name in found}):
            values = sorted({v for found in self.passes for v in found[name]}, key=lambda v: (len(v), v))
            tables[name] = {}
            for value in values:
                counts = [found[name][value] for found in self.passes]
                mean = sum(counts) / n
                error = math.sqrt(sum((c - mean) ** 2 for c in counts) / (n - 1) / n)
                tables[name][value] = [float(f"{mean:.6g}"), float(f"{error:.6g}")]
        content = {**other, "passes": n, "statistics": tables}
        lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in content.items() if k != "statistics")
        rows = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in tables.items())
        (HERE / file).write_text(f'{{{lines},\n"statistics": {{\n{rows}\n}}}}\n')


class Stub(types.ModuleType):
    """A module whose missing members are mocks."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock()


def stub(name, **members):
    module = Stub(name)
    module.__dict__.update(members)
    sys.modules[name] = module
    return module


def load(file, name):
    """Imports a file of a checkout under a module name."""
    path = CHECKOUTS / file
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == FILES[file], f"{path} is not the file of {COMMITS[file.split('/')[0]]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Flags:
    """Records the defaults of flags."""

    def __init__(self):
        self.FLAGS = types.SimpleNamespace()

    def __getattr__(self, name):
        return lambda flag, default, *_: setattr(self.FLAGS, flag, default)


def fraction(i, n):
    """Eighth of a sequence."""
    return 8 * i // n


def kind(token, original, mask):
    return "mask" if token == mask else "kept" if token == original else "random"


def count_predictions(statistics, ids, labels, mask):
    """Number of predictions, their places, replacements, and runs of neighbours."""
    predicted = [i for i, label in enumerate(labels) if label is not None]
    statistics.count("predictions", len(predicted))
    for i in predicted:
        statistics.count("place of a prediction", fraction(i, len(ids)))
        found = kind(ids[i], labels[i], mask)
        statistics.count("replacement", found)
        if found == "random":
            statistics.count("random token", ids[i] // 250)
    run = 0
    for i in range(len(ids) + 1):
        if i < len(ids) and labels[i] is not None:
            run += 1
        elif run:
            statistics.count("run of predictions", run)
            run = 0


# --- BERT and ALBERT: tokens are strings; a word's later pieces start with ##.

BERT = {"seq": 64, "max_predictions": 8, "pad": 0, "cls": 1, "sep": 2, "mask": 4}


def piece(token):
    return str(token) if starts_word(token) else f"##{token}"


def count_pairs(name, file, passes, **flags):
    names = {BERT["cls"]: "[CLS]", BERT["sep"]: "[SEP]", BERT["mask"]: "[MASK]"}
    vocabulary = [names.get(i, piece(i)) for i in range(VOCABULARY)]
    number = {word: i for i, word in enumerate(vocabulary)}
    flag = Flags()
    tensorflow = stub("tensorflow", flags=flag)
    tensorflow.compat = stub("tensorflow.compat", v1=tensorflow)
    sys.modules["tensorflow.compat.v1"] = tensorflow
    stub("tokenization")
    stub("albert", tokenization=stub("albert.tokenization"))
    module = load(file, name)
    vars(flag.FLAGS).update(flags)
    documents = [[[piece(t) for t in sentence] for sentence in document] for document in CORPUS]
    statistics = Statistics()
    rng = random.Random(1)
    if name == "albert":
        import numpy

        numpy.random.seed(2)
    for _ in range(passes):
        statistics.next_pass()
        for document in range(len(documents)):
            instances = module.create_instances_from_document(
                documents, document, BERT["seq"], flag.FLAGS.short_seq_prob, flag.FLAGS.masked_lm_prob,
                BERT["max_predictions"], vocabulary, rng)
            for instance in instances:
                statistics.count("examples", "all")
                ids = [number[token] for token in instance.tokens]
                labels = [None] * len(ids)
                for i, label in zip(instance.masked_lm_positions, instance.masked_lm_labels):
                    labels[i] = number[label]
                statistics.count("length", len(ids))
                statistics.count("length of the second segment", sum(instance.segment_ids))
                statistics.count("sequence label", int(instance.is_random_next))
                count_predictions(statistics, ids, labels, BERT["mask"])
    statistics.write(f"{name}.json", source=file, commit=COMMITS[name])


def bert():
    count_pairs("bert", "bert/create_pretraining_data.py", 300)


def albert():
    count_pairs("albert", "albert/create_pretraining_data.py", 300)


# --- ELECTRA

ELECTRA = {"seq": 64, "cls": 1, "sep": 2, "mask": 4}


def electra():
    import tensorflow as tf

    contrib = stub("tensorflow.contrib")
    contrib.layers = stub("tensorflow.contrib.layers")
    sys.path.insert(0, str(CHECKOUTS / "electra"))
    dataset = load("electra/build_pretraining_dataset.py", "build_pretraining_dataset")
    helpers = load("electra/pretrain/pretrain_helpers.py", "pretrain_helpers")
    pretrain_data = sys.modules["pretrain.pretrain_data"]
    cls, sep, mask_id, seq = ELECTRA["cls"], ELECTRA["sep"], ELECTRA["mask"], ELECTRA["seq"]
    # The original names its argument in an error, which needs a graph.
    helpers.modeling.get_shape_list = lambda tensor, *_, **__: tensor.shape.as_list()
    helpers.get_vocab = lambda config: {"[CLS]": cls, "[SEP]": sep, "[MASK]": mask_id}

    class Tokenizer:
        def tokenize(self, line):
            return line.split()

        def convert_tokens_to_ids(self, tokens):
            return [int(t) for t in tokens]

    class Builder(dataset.ExampleBuilder):
        def _make_tf_example(self, first, second):
            return first, second

    config = types.SimpleNamespace(vocab_file=None, max_predictions_per_seq=int((0.15 + 0.005) * seq))
    statistics = Statistics()
    random.seed(3)
    tf.random.set_seed(4)
    builder = Builder(Tokenizer(), seq)
    for _ in range(300):
        statistics.next_pass()
        rows, kinds = [], []
        for document in CORPUS:
            for sentence in document + [[]]:
                example = builder.add_line(" ".join(map(str, sentence)))
                if example:
                    first, second = example
                    rows.append([cls] + first + [sep] + (second + [sep] if second else []))
                    kinds.append(len(second) + 1 if second else 0)
        padded = [row + [0] * (seq - len(row)) for row in rows]
        inputs = pretrain_data.Inputs(
            input_ids=tf.constant(padded, tf.int32),
            input_mask=tf.constant([[1] * len(r) + [0] * (seq - len(r)) for r in rows], tf.int32),
            segment_ids=tf.zeros([len(rows), seq], tf.int32),
            masked_lm_positions=None, masked_lm_ids=None, masked_lm_weights=None)
        masked = helpers.mask(config, inputs, 0.15)
        ids = masked.input_ids.numpy().tolist()
        places = masked.masked_lm_positions.numpy().tolist()
        weights = masked.masked_lm_weights.numpy().tolist()
        for row, second, ids, places, weights in zip(rows, kinds, ids, places, weights):
            labels = [None] * len(row)
            for i, weight in zip(places, weights):
                if weight:
                    labels[i] = row[i]
            statistics.count("examples", "all")
            statistics.count("length", len(row))
            statistics.count("length of the second segment", second)
            count_predictions(statistics, ids[:len(row)], labels, mask_id)
    statistics.write("electra.json", source="electra/pretrain/pretrain_helpers.py", commit=COMMITS["electra"])


# --- T5

T5 = {"inputs": [32, 64]}


def t5():
    import tensorflow as tf

    path = pathlib.Path(importlib.util.find_spec("tensorflow").origin).parent.parent / "seqio" / "utils.py"
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("def stateless_shuffle"))
    end = next(i for i in range(start + 1, len(lines)) if lines[i] and not lines[i].startswith(" "))
    scope = {"tf": tf}
    exec("\n".join(lines[start:end]), scope)
    stub("seqio", stateless_shuffle=scope["stateless_shuffle"])
    module = load("t5/t5/data/preprocessors.py", "preprocessors")
    helper = inspect.unwrap(module.random_spans_helper)

    def lengths(inputs, density, mean):
        return helper(inputs_length=inputs, noise_density=density, mean_noise_span_length=mean,
                      extra_tokens_per_span_inputs=1, extra_tokens_per_span_targets=1)

    table = [[inputs, density, mean, *lengths(inputs, density, mean)]
             for inputs, density, mean in itertools.product(
                 [3, 4, 5, 8, 10, 16, 33, 64, 100, 128, 256, 511, 512, 513, 1024],
                 [0.1, 0.15, 0.3, 0.5], [1.0, 2.0, 3.0, 5.0, 10.0])]

    vocabulary = types.SimpleNamespace(vocab_size=VOCABULARY)
    statistics, examples = Statistics(), []
    sizes = {f"inputs {inputs}": lengths(inputs, 0.15, 3.0)[0] for inputs in T5["inputs"]}
    segments = 40
    for seed in range(100):
        statistics.next_pass()
        for name, length in sizes.items():
            mask = module.random_spans_noise_mask(
                length=length, noise_density=0.15, seeds=tf.constant([[1, seed], [2, seed]], tf.int32),
                mean_noise_span_length=3.0, batch_size=segments).numpy()
            for row in mask:
                for noise, group in itertools.groupby(enumerate(row), key=lambda item: item[1]):
                    group = list(group)
                    statistics.count(f"{name}: {'noise' if noise else 'other'} span", len(group))
                for i, noise in enumerate(row):
                    if noise:
                        statistics.count(f"{name}: place of noise", fraction(i, length))
    for length in [1, 2, 3, 5, 10, 20, 40]:
        seeds = tf.constant([[length, 1], [length, 2]], tf.int32)
        mask = module.random_spans_noise_mask(length=length, noise_density=0.15, seeds=seeds)
        tokens = tf.range(100, 100 + length)
        inputs = module.noise_span_to_unique_sentinel(tokens, mask, vocabulary, seeds)
        targets = module.nonnoise_span_to_unique_sentinel(tokens, mask, vocabulary, seeds)
        examples.append([x.numpy().tolist() for x in (tokens, inputs, targets)])
    statistics.write("t5.json", source="t5/data/preprocessors.py", commit=COMMITS["t5"], segments=segments,
                     lengths=table, examples=examples)


# --- RoBERTa and BART

FAIRSEQ = {"seq": 64, "bos": 0, "pad": 1, "eos": 2, "mask": VOCABULARY - 1}


class Dictionary:
    nspecial = 4

    def __len__(self):
        return VOCABULARY

    def index(self, word):
        return FULL_STOP

    def bos(self):
        return FAIRSEQ["bos"]

    def pad(self):
        return FAIRSEQ["pad"]

    def eos(self):
        return FAIRSEQ["eos"]


def fairseq_data():
    """The package fairseq.data without its members, which import most of fairseq."""
    import numpy
    import torch

    @contextlib.contextmanager
    def numpy_seed(*seeds):
        seed = hash(seeds) % (1 << 32)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        yield

    class Dataset:
        def __init__(self, *_):
            pass

        def set_epoch(self, epoch, **_):
            pass

    utils = stub("fairseq.data.data_utils", numpy_seed=numpy_seed)
    stub("fairseq", __path__=[])
    stub("fairseq.data", __path__=[], Dictionary=Dictionary, data_utils=utils, FairseqDataset=Dataset,
         BaseWrapperDataset=Dataset, LRUCacheDataset=Dataset)


def slices(sizes, mode, block, separator):
    """Starts and ends of the blocks, by the official Cython code."""
    import numpy
    import pyximport

    load_path = CHECKOUTS / "fairseq/fairseq/data/token_block_utils_fast.pyx"
    digest = hashlib.sha256(load_path.read_bytes()).hexdigest()
    assert digest == FILES["fairseq/fairseq/data/token_block_utils_fast.pyx"]
    # The compiler needs a module without a package beside it.
    copy = pathlib.Path(tempfile.mkdtemp()) / load_path.name
    copy.write_bytes(load_path.read_bytes())
    sys.path.insert(0, str(copy.parent))
    pyximport.install(setup_args={"include_dirs": numpy.get_include()}, language_level=3, build_dir=copy.parent)
    module = importlib.import_module(load_path.stem)
    return module._get_slice_indices_fast(numpy.array(sizes, dtype=numpy.int64), mode, block, separator).tolist()


def pieces(sentence, size):
    return [sentence[i:i + size] for i in range(0, len(sentence), size)]


def roberta():
    import torch

    fairseq_data()
    module = load("fairseq/fairseq/data/mask_tokens_dataset.py", "fairseq.data.mask_tokens_dataset")
    size = FAIRSEQ["seq"] - 2
    sentences = []
    for document in CORPUS:
        sentences += [piece for sentence in document for piece in pieces(sentence, size)]
        sentences[-1] = sentences[-1] + [FAIRSEQ["eos"]]
    stream = [token for sentence in sentences for token in sentence]
    blocks = [stream[a:b] for a, b in slices([len(s) for s in sentences], "complete", size, 1)]
    eos = FAIRSEQ["eos"]
    rows = [[FAIRSEQ["bos"]] + block + ([] if block[-1] == eos else [eos]) for block in blocks]
    items = [torch.tensor(row) for row in rows]
    statistics = Statistics()
    for epoch in range(1500):
        statistics.next_pass()
        make = lambda targets: module.MaskTokensDataset(
            items, Dictionary(), FAIRSEQ["pad"], FAIRSEQ["mask"], return_masked_tokens=targets, seed=epoch)
        # Inputs and targets of an item draw from the same seed.
        source, target = make(False), make(True)
        for i in range(len(items)):
            ids, labels = source[i].tolist(), target[i].tolist()
            # <pad> is no token of the rows.
            labels = [None if label == FAIRSEQ["pad"] else label for label in labels]
            count_predictions(statistics, ids, labels, FAIRSEQ["mask"])
            for label in labels:
                if label is not None and label < 4:
                    statistics.count("special token predicted", label)
    statistics.write("roberta.json", source="fairseq/data/mask_tokens_dataset.py", commit=COMMITS["fairseq"],
                     blocks=sorted(len(row) for row in rows))


def bart():
    import numpy
    import torch

    fairseq_data()
    module = load("fairseq/fairseq/data/denoising_dataset.py", "fairseq.data.denoising_dataset")
    size = FAIRSEQ["seq"] - 2
    sentences = []
    for document in CORPUS:
        # An empty sentence ends a document.
        sentences += [piece for sentence in document for piece in pieces(sentence, size)] + [[]]
    stream = [token for sentence in sentences for token in sentence]
    blocks = [stream[a:b] for a, b in slices([len(s) for s in sentences], "complete_doc", size, 0)]
    rows = [[FAIRSEQ["bos"]] + block + [FAIRSEQ["eos"]] for block in blocks]
    statistics = {}
    words = torch.tensor([1 if i < 4 or starts_word(i) else 0 for i in range(VOCABULARY)], dtype=torch.uint8)
    variants = {"paper": (None, 0.0, 3.0), "words": (words, 0.1, 3.5)}
    for name, (mask_whole_words, mask_random, poisson_lambda) in variants.items():
        statistics = Statistics()
        for epoch in range(400):
            statistics.next_pass()
            data = module.DenoisingDataset(
                [torch.tensor(row) for row in rows], numpy.array([len(row) for row in rows]), Dictionary(),
                FAIRSEQ["mask"], mask_whole_words, shuffle=False, seed=epoch, mask=0.3, mask_random=mask_random,
                insert=0.0, rotate=0.0, permute_sentences=1.0, bpe="gpt2", replace_length=1,
                mask_length="span-poisson", poisson_lambda=poisson_lambda)
            for row, i in zip(rows, range(len(rows))):
                ids = data[i]["source"].tolist()
                statistics.count("length", len(ids))
                statistics.count("difference of lengths", len(ids) - len(row))
                masks = [j for j, token in enumerate(ids) if token == FAIRSEQ["mask"]]
                statistics.count("masks", len(masks))
                for j in masks:
                    statistics.count("place of a mask", fraction(j, len(ids)))
                for masked, group in itertools.groupby(ids, key=lambda token: token == FAIRSEQ["mask"]):
                    statistics.count("run of masks" if masked else "run of tokens", len(list(group)))
                # Tokens of the text's first eighth, wherever its sentences went.
                first = set(row[1:1 + len(row) // 8])
                for j, token in enumerate(ids):
                    if token in first and token != FULL_STOP:
                        statistics.count("place of the text's start", fraction(j, len(ids)))
        statistics.write(f"bart-{name}.json", source="fairseq/data/denoising_dataset.py", commit=COMMITS["fairseq"],
                         blocks=sorted(len(row) for row in rows))


CORPUS = make_corpus()
HERE.mkdir(exist_ok=True)
names = sys.argv[2:] or ["bert", "albert", "electra", "t5", "roberta", "bart"]
if len(names) > 1:
    # Modules of two repositories have equal names, so each family has a process of its own.
    import subprocess

    documents = ",\n".join(json.dumps(document) for document in CORPUS)
    (HERE / "corpus.json").write_text(f"[\n{documents}\n]\n")
    for name in names:
        subprocess.run([sys.executable, __file__, sys.argv[1], name], check=True)
else:
    globals()[names[0]]()
