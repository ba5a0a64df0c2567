"""Splits the corpora for run.sh.

usage: prepare.py CORPORA OUT

- State of the Union: years from 2012 on are held out; `sotu-recent` has 2009 to 2011.
- Movie sentences: 2,000 random training sentences.
- Brown: every tenth file is held out, and 5,000 random sentences of the others are trained on. Tags lose the marks of
  titles, headlines, citations and foreign words. Held-out sentences with a tag that is not trained on are left out.
"""

import random, re, shutil, sys
from pathlib import Path

corpora, out = map(Path, sys.argv[1:])
for name in ["sotu-train", "sotu-eval", "sotu-recent", "data"]:
    (out / name).mkdir(parents=True, exist_ok=True)
for path in sorted((corpora / "sotu").glob("*.txt")):
    year = int(path.name[:4])
    shutil.copy(path, out / ("sotu-eval" if year >= 2012 else "sotu-train"))
    if 2009 <= year < 2012:
        shutil.copy(path, out / "sotu-recent")

header, *rows = (corpora / "movies/train.tsv").read_text().split("\n")
rows = [row for row in rows if row]
random.Random(0).shuffle(rows)
(out / "data/movies-2000.tsv").write_text("\n".join([header] + rows[:2000]) + "\n")
shutil.copy(corpora / "movies/eval.tsv", out / "data/movies-eval.tsv")

train, held_out = [], []
for number, path in enumerate(sorted((corpora / "brown").glob("c[a-r][0-9][0-9]"))):
    for line in path.read_text(encoding="latin-1").splitlines():
        pairs = [word.rsplit("/", 1) for word in line.split()]
        sentence = [(word, re.sub(r"-(tl|hl|nc)\b", "", re.sub(r"^fw-", "", tag))) for word, tag in pairs]
        if sentence:
            (held_out if number % 10 == 9 else train).append(sentence)


def write(name, sentences):
    text = "\n\n".join("\n".join(f"{word}\t{tag}" for word, tag in sentence) for sentence in sentences)
    (out / f"data/{name}.conll").write_text(text + "\n")


def known(sentences, among):
    tags = {tag for sentence in among for _, tag in sentence}
    return [sentence for sentence in sentences if all(tag in tags for _, tag in sentence)]


random.Random(0).shuffle(train)
write("brown-5000", train[:5000])
write("brown-eval-5000", known(held_out, train[:5000]))
