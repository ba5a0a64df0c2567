"""Prints the tables of the chapter Training in benches/RESULTS.md from the files that run.sh left.

usage: tables.py DIR
"""

import json, math, re, statistics, sys
from pathlib import Path

DIR = Path(sys.argv[1])


def log(run):
    return [json.loads(line) for line in (DIR / "runs" / run / "log.jsonl").read_text().splitlines()]


def result(run):
    return json.loads((DIR / "logs" / f"{run}.json").read_text())


def cpu(run):
    """Seconds of CPU time, which run.sh writes last; other work on the machine makes the wall time longer."""
    found = re.findall(r"([\d.]+) s (?:user|of CPU)", (DIR / "logs" / f"{run}.err").read_text())
    return f"{float(found[-1]):.0f} s" if found else "-"


def done(run):
    return (DIR / "runs" / run / "done").exists()


def table(header, rows):
    print("|", " | ".join(header), "|")
    print("|", " | ".join(["---"] + ["---:"] * (len(header) - 1)), "|")
    for row in rows:
        print("|", " | ".join(row), "|")
    print()


def percent(share):
    return f"{100 * share:.1f}%"


def words(parts):
    """Name of the objective whose terms are words."""
    return "masked words" if "masked words" in parts else "words"


RECIPES = ["bert", "roberta", "albert", "electra", "t5", "bart", "gpt2", "llama"]


def pretraining():
    rows, curves = [], []
    for run in filter(done, RECIPES):
        lines, of = log(run), result(run)
        last, name = lines[-1], words(lines[-1]["parts"])
        loss = last["eval_parts"][name]
        accuracy = last.get("eval_accuracy", {})
        cells = [percent(accuracy[key]) if key in accuracy else "-" for key in (name, "sequences")]
        rows.append([run, f"{of['parameters']:,}", f"{of['steps']:,}", f"{of['tokens'] / 1e6:.2f} M", cpu(run),
                     f"{lines[0]['parts'][name]:.2f}", f"{loss:.2f}", f"{math.exp(loss):.0f}", *cells])
        evaluations = [line for line in lines if "eval_parts" in line]
        first = max(1, len(evaluations) // 6)
        points = evaluations[first - 1 :: first]
        curves.append([run] + [f"{line['step']}: {line['eval_parts'][name]:.3f}" for line in points])
    table(["run", "parameters", "steps", "tokens", "CPU time", "first loss", "held-out loss", "perplexity", "words right", "sequences right"], rows)
    width = max(map(len, curves))
    table(["run"] + [f"evaluation {n}" for n in range(1, width)], [row + [""] * (width - len(row)) for row in curves])
    for run in filter(done, RECIPES):
        lines = [line for line in log(run) if "replaced" in line.get("eval_accuracy", {})]
        if lines:
            rows = []
            for line in lines:
                right = line["eval_accuracy"]
                # all = p replaced + (1 - p) original
                p = (right["replaced tokens"] - right["original"]) / (right["replaced"] - right["original"])
                rows.append([str(line["step"]), percent(p), percent(right["replaced tokens"]), percent(right["replaced"]), percent(right["original"]),
                             percent((right["replaced"] + right["original"]) / 2), f"{line['eval_parts']['masked words']:.3f}"])
            table(["step", "replaced", "right", "right of the replaced", "right of the original", "balanced", "generator's loss"], rows)


def maskings():
    rows = []
    for how in ["static", "copies=10", "dynamic"]:
        run = f"mask-{how}"
        if done(run):
            lines = log(run)
            tail = statistics.mean(line["loss"] for line in lines[-50:])
            evaluations = [line for line in lines if "eval_parts" in line]
            rows.append([how, f"{tail:.3f}"] + [f"{line['eval_parts']['masked words']:.3f}" for line in evaluations]
                        + [percent(evaluations[-1]["eval_accuracy"]["masked words"])])
            steps = [f"held-out, step {line['step']}" for line in evaluations]
    if rows:
        table(["masking", "training loss, last 50 steps", *steps, "words right"], rows)


def tuned():
    rows = []
    for run in sorted(path.stem for path in (DIR / "logs").glob("*.json") if done(path.stem)):
        of = result(run)
        if "best" in of:
            metrics = of["best"]["metrics"]
            rows.append([run, str(of["best_epoch"]), percent(metrics["accuracy"]), cpu(run)])
    for path in sorted((DIR / "logs").glob("peer-*.log")):
        for epoch, accuracy in re.findall(r"epoch (\d+): accuracy ([\d.]+)", path.read_text()):
            rows.append([f"{path.stem} (transformers)", epoch, percent(float(accuracy)), "-"])
    table(["run", "best epoch", "accuracy", "CPU time"], rows)


def addition():
    for path in sorted((DIR / "logs").glob("addition*.log")):
        found = dict(re.findall(r"epoch (\d+): .*exact match ([\d.]+)", path.read_text()))
        epochs = [e for e in ["1", "7", "12", "15", "19", "22", "25", "27", "30", "35", "40", "50"] if e in found]
        table([path.stem, *epochs], [["exact match"] + [found[e] for e in epochs]])


pretraining()
maskings()
tuned()
addition()
