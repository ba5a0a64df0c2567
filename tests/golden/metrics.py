"""Values of metrics by scikit-learn, scipy, seqeval and SQuAD's script, in metrics.json.

pip install scikit-learn==1.9.1 scipy==1.17.1 seqeval==1.2.2 numpy==2.4.6; python metrics.py
"""

import collections
import json
import math
import pathlib
import re
import string
import warnings

import numpy as np
from scipy import stats
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics import precision_score as entity_precision
from seqeval.metrics import recall_score as entity_recall
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

warnings.simplefilter("ignore")
random = np.random.default_rng(3)


def number(value):
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)


def classes(gold, found):
    gold, found = [int(c) for c in gold], [int(c) for c in found]
    return {
        "gold": gold,
        "found": found,
        "accuracy": number(accuracy_score(gold, found)),
        "f1_macro": number(f1_score(gold, found, average="macro", zero_division=0)),
        "f1_micro": number(f1_score(gold, found, average="micro", zero_division=0)),
        "matthews": number(matthews_corrcoef(gold, found)),
    }


def values(x, y):
    x, y = [float(v) for v in x], [float(v) for v in y]
    return {
        "x": x,
        "y": y,
        "pearson": number(stats.pearsonr(x, y)[0]),
        "spearman": number(stats.spearmanr(x, y)[0]),
    }


def entities(gold, found):
    return {
        "gold": gold,
        "found": found,
        "precision": number(entity_precision(gold, found, zero_division=0)),
        "recall": number(entity_recall(gold, found, zero_division=0)),
        "f1": number(entity_f1(gold, found, zero_division=0)),
    }


# The functions of SQuAD 2.0's evaluate-v2.0.py.
def normalize(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    text = re.sub(r"\b(a|an|the)\b", " ", text, flags=re.UNICODE)
    return " ".join(text.split())


def answer_f1(gold, found):
    gold, found = normalize(gold).split(), normalize(found).split()
    same = sum((collections.Counter(gold) & collections.Counter(found)).values())
    if len(gold) == 0 or len(found) == 0:
        return float(gold == found)
    if same == 0:
        return 0.0
    precision, recall = same / len(found), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def answer(golds, found):
    golds = [gold for gold in golds if normalize(gold)] or [""]
    return {
        "golds": golds,
        "found": found,
        "exact_match": max(float(normalize(gold) == normalize(found)) for gold in golds),
        "f1": max(answer_f1(gold, found) for gold in golds),
    }


def tags(n):
    return [str(t) for t in random.choice(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], n, p=[0.4, 0.15, 0.2, 0.15, 0.1])]


gold = random.integers(0, 4, 60)
found = np.where(random.random(60) < 0.6, gold, random.integers(0, 4, 60))
x = random.normal(size=40)
tied = random.integers(0, 5, 40)
lengths = [7, 1, 12, 4, 9, 20]
result = {
    "classes": [
        classes(gold, found),
        classes([0, 1, 1, 0, 1], [0, 1, 0, 0, 1]),
        classes([0, 0, 1, 1], [0, 0, 1, 1]),
        classes([0, 1, 2, 2], [0, 1, 1, 1]),  # class 2 is never found
        classes([0, 1, 1, 0], [2, 1, 1, 0]),  # class 2 is never right
        classes([0, 1, 2], [1, 2, 0]),
        classes([1, 1, 1], [1, 1, 1]),  # one class
        classes([0, 1, 0, 1], [1, 1, 1, 1]),  # a constant answer
        classes([5], [3]),
    ],
    "values": [
        values(x, x + random.normal(size=40)),
        values(x, -x),
        values(tied, random.integers(0, 5, 40)),
        values(x, np.exp(x)),
        values([1, 1, 1, 1], [1, 2, 3, 4]),  # constant
        values([1, 2, 3], [2, 2, 2]),
        values([1, 2], [5, 9]),
        values(x + 1e6, x),
    ],
    "entities": [
        entities([tags(n) for n in lengths], [tags(n) for n in lengths]),
        entities([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "B-LOC"]]),
        entities([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]]),
        entities([["B-PER", "B-PER"]], [["B-PER", "I-PER"]]),
        entities([["O", "I-PER", "I-LOC"]], [["O", "B-PER", "B-LOC"]]),  # no B before I
        entities([["B-PER"], ["I-PER"]], [["B-PER"], ["B-PER"]]),  # entities end with their sentence
        entities([["O", "O"]], [["O", "O"]]),
        entities([["O", "O"]], [["B-PER", "O"]]),
        entities([["B-A-B", "I-A-B"]], [["B-A-B", "I-A-C"]]),  # types with hyphens
    ],
    "answers": [
        answer(["The Eiffel Tower"], "eiffel tower!"),
        answer(["Denver Broncos", "the Broncos"], "Broncos of Denver"),
        answer(["a"], "the"),
        answer(["1,000"], "1000"),
        answer(["theatre"], "the atre"),
        answer(["cat cat dog"], "cat dog dog"),
        answer(["\u00dcber\u2013the\u2013top"], "\u00fcber\u2013 \u2013top"),
        answer(["state-of-the-art"], "stateoftheart"),
        answer([], ""),
        answer([], "something"),
        answer(["something"], ""),
        answer(["x"], "y"),
    ],
}
path = pathlib.Path(__file__).with_name("metrics.json")
path.write_text(json.dumps(result, indent=None, separators=(",", ":")).replace('},{', '},\n{') + "\n")
