"""Time this project beside the published code: the same text, checkpoint, windows, neighbors and kind of index.

    python -m benchmarks.published.run --code knnlm --python env/bin/python --results results/mini --out published

Every step is a process of its own, start and imports included. A step that the output folder has is not run again.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.__main__ import machine
from benchmarks.harness import ONE_THREAD, environment
from knnlm.artifacts import files
from knnlm.corpora.vocab import WordVocab
from knnlm.scores import mixture

COMPAT = Path(__file__).parent / "compat.py"
BLOCK, BATCH, UPDATE = 256, 8192, 512  # tokens of a training block, of an evaluation batch, and of an update
CONTEXT = {"datastore": 64, "evaluation": 128}  # tokens of a window that are context; the rest are new
NEW = {name: BLOCK - context for name, context in CONTEXT.items()}
LISTS, PARTS, NPROBE, K, LMBDA = 1024, 32, 32, 1024, 0.25
CUTOFFS, DIM, FFN, LAYERS, HEADS, LR = (2000, 10000), 128, 512, 4, 4, 0.003
QUERIES = 1024  # tokens of a batch of theirs with neighbors: the keys of all their neighbors are copied at once
KEYTYPE = "ffn_input_ln", "last_ffn_input"  # our name and theirs
INDEXES = {"paper": f"IVF{LISTS},PQ{PARTS}x8", "fast": "IVF512,PQ64x4fsr"}
PARTS_OF_RUN = {
    "training": ("train",),
    "extraction": ("extract",),
    "index": ("index", "index-paper", "add-paper"),
    "dev, LM": ("lm", "evaluate"),
    "dev, kNN": ("knn", "evaluate", "search-paper", "rerank-paper", "score-paper"),
    "dev, kNN, fast index": ("knn", "evaluate", "search-fast", "rerank-fast", "score-fast"),
}
"""the lines of the table: the steps of theirs and ours, of which each side has its own"""


class Step(NamedTuple):
    """One process."""

    side: str
    name: str
    command: list[str]


def prepare(results: Path, out: Path, words: int) -> None:
    """Text as their preprocessing reads it, and the same tokens as our verbs read them, from a study's tokens."""
    tokens, vocab = results / "tokens/words/wikitext", WordVocab.load(results / "vocabs/words")
    files.write_text(out / "dict.txt", (results / "vocabs/words/dict.txt").read_text(encoding="utf-8"))
    files.write_json(out / "vocab.json", {"size": vocab.size})
    for split, most in (("train", words), ("dev", None)):
        ids = np.load(tokens / f"{split}.npy")[:most]
        ids = ids[: np.flatnonzero(ids == vocab.eos)[-1] + 1]  # whole lines
        lines = np.split(ids, np.flatnonzero(ids == vocab.eos)[:-1] + 1)
        files.write_text(out / f"{split}.txt", "".join(" ".join(vocab.tokens(line[:-1])) + "\n" for line in lines))
        np.save(out / f"{split}.npy", ids)


def theirs(code: Path, python: str, out: Path, updates: int, entries: int) -> Iterator[Step]:
    def step(name: str, script: str, flags: str) -> Step:
        return Step("theirs", name, [python, str(COMPAT), str(code / script), *shlex.split(flags)])

    data, saved = out / "data-bin", out / "checkpoints"
    best, stored = f"--path {saved}/checkpoint_last.pt", f"--dstore-size {entries}"
    cutoffs = ",".join(map(str, CUTOFFS))
    yield step(
        "preprocess",
        "preprocess.py",
        f"--only-source --trainpref {out}/train.txt --validpref {out}/dev.txt --srcdict {out}/dict.txt"
        f" --destdir {data}",
    )
    yield step(
        "train",
        "train.py",
        f"{data} --task language_modeling --save-dir {saved} --arch transformer_lm_wiki103 --decoder-layers {LAYERS}"
        f" --decoder-embed-dim {DIM} --decoder-input-dim {DIM} --decoder-output-dim {DIM}"
        f" --decoder-ffn-embed-dim {FFN} --decoder-attention-heads {HEADS}"
        f" --adaptive-input-cutoff {cutoffs} --adaptive-softmax-cutoff {cutoffs}"
        " --dropout 0.1 --attention-dropout 0 --activation-dropout 0 --adaptive-softmax-dropout 0"
        f" --optimizer adam --lr {LR} --clip-norm 1 --criterion adaptive_loss --max-tokens {UPDATE}"
        f" --tokens-per-sample {BLOCK} --sample-break-mode none --max-update {updates} --seed 1 --cpu --num-workers 0"
        " --ddp-backend no_c10d --no-epoch-checkpoints --no-progress-bar --log-interval 50 --disable-validation",
    )
    common = f"{data} {best} --softmax-batch 1024 --sample-break-mode none --cpu --num-workers 0 --no-progress-bar"
    keytype = f"--knn-keytype {KEYTYPE[1]} --model-overrides \"{{'knn_keytype': '{KEYTYPE[1]}'}}\""
    yield step(
        "extract",
        "eval_lm.py",
        f"{common} --max-tokens {BATCH} --gen-subset train --context-window {CONTEXT['datastore']}"
        f" --tokens-per-sample {BLOCK} --dstore-mmap {out}/dstore {stored} {keytype} --save-knnlm-dstore",
    )
    yield step(
        "index",
        "build_dstore.py",
        f"--dstore_mmap {out}/dstore --dstore_size {entries} --dimension {DIM} --ncentroids {LISTS}"
        f" --code_size {PARTS} --faiss_index {out}/knn.index --starting_point 0",
    )
    dev = f"{common} --gen-subset valid --context-window {CONTEXT['evaluation']} --tokens-per-sample {BLOCK}"
    yield step("lm", "eval_lm.py", f"{dev} --max-tokens {BATCH}")
    yield step(
        "knn",
        "eval_lm.py",
        f"{dev} --max-tokens {QUERIES} --knnlm --dstore-filename {out}/dstore {stored} {keytype}"
        f" --indexfile {out}/knn.index --probe {NPROBE} --k {K} --lmbda {LMBDA}",
    )


def ours(out: Path, updates: int) -> Iterator[Step]:
    def step(name: str, flags: str, **given: object) -> Step:
        verb, *rest = shlex.split(flags)
        as_json = [part for key, value in given.items() for part in (f"--{key}", json.dumps(value))]
        return Step("ours", name, [sys.executable, "-m", "knnlm", verb, *rest, *as_json])

    def windows(name: str) -> dict[str, int]:
        return {"new": NEW[name], "context": CONTEXT[name]}

    architecture = {"layers": LAYERS, "dim": DIM, "ffn_dim": FFN, "heads": HEADS, "adaptive_cutoffs": CUTOFFS}
    architecture |= {"dropout": 0.1, "attention_dropout": 0, "activation_dropout": 0, "adaptive_dropout": 0}
    training = {"optimizer": "adamw", "lr": LR, "min_lr": LR, "warmup": 0, "updates": updates, "clip_norm": 1}
    training |= {"tokens_per_update": UPDATE, "tokens_per_batch": UPDATE, "block": BLOCK, "evaluate_every": updates}
    yield step(
        "train",
        f"train --train {out}/train.npy --dev {out}/dev.npy --vocab {out}/vocab.json --out {out}/trained",
        architecture=architecture,
        training=training,
    )
    model, keys, queries = out / "model", out / "keys", out / "queries"
    best = out / "checkpoints/checkpoint_last.pt"
    yield step("import", f"import_fairseq --checkpoint {best} --dictionary {out}/dict.txt --out {model}")
    yield step(
        "extract",
        f"extract --model {model} --tokens {out}/train.npy --keytypes {KEYTYPE[0]} --out {keys} --batch-tokens {BATCH}",
        windows=windows("datastore"),
    )
    yield step(
        "evaluate",
        f"evaluate --model {model} --tokens {out}/dev.npy --logprob {out}/lm --keytypes {KEYTYPE[0]} --out {queries}"
        f" --batch-tokens {BATCH}",
        windows=windows("evaluation"),
    )
    for name, factory in INDEXES.items():
        trained, index, settings = out / f"{name}.trained.faiss", out / f"{name}.faiss", {"factory": factory}
        yield step(f"index-{name}", f"train_index --keys {keys} --out {trained}", settings=settings)
        yield step(f"add-{name}", f"add --trained {trained} --keys {keys} --out {index}")
        searched, found = out / f"{name}.searched", out / f"{name}.found"
        yield step(
            f"search-{name}",
            f"search --index {index} --keys {keys} --queries {queries} --k {K} --out {searched}",
            settings={"nprobe": NPROBE},
        )
        yield step(f"rerank-{name}", f"rerank --neighbors {searched} --keys {keys} --queries {queries} --out {found}")
        flags = f"score_knn --neighbors {found} --targets {queries} --out {out / name}"
        yield step(f"score-{name}", flags, scores=[["exact", K, 1]])


def run(step: Step, out: Path) -> None:
    """Run a step and keep its seconds and its output, unless they are there already."""
    kept, log = out / "seconds" / f"{step.side}-{step.name}.json", out / f"{step.side}-{step.name}.log"
    if kept.exists():
        return
    print(step.side, step.name, flush=True)
    with log.open("w") as file:
        began = time.perf_counter()
        process = subprocess.Popen(step.command, stdout=file, stderr=file, env=environment() | ONE_THREAD)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {step.side} {step.name} failed, see {log}; its command: {shlex.join(step.command)}")
    files.write_json(kept, {"wall": time.perf_counter() - began, "processor": usage.ru_utime + usage.ru_stime})


def seconds(out: Path, side: str, part: str, clock: str = "processor") -> float:
    """What the steps of a part took on a side."""
    kept = (out / "seconds" / f"{side}-{name}.json" for name in PARTS_OF_RUN[part])
    return sum(files.read_json(path)[clock] for path in kept if path.exists())


def perplexities(out: Path) -> dict[str, tuple[float, float]]:
    """{part: (theirs, ours)} of dev."""
    lm = np.load(out / "lm/logprob.npy")
    found = {"dev, LM": (printed(out / "theirs-lm.log"), mixture.perplexity(lm))}
    for part, name in (("dev, kNN", "paper"), ("dev, kNN, fast index", "fast")):
        scored = np.load(out / name / f"exact-k{K}-t1.npy")
        found[part] = printed(out / "theirs-knn.log"), mixture.perplexity(mixture.mix([LMBDA], [scored], lm))
    return found


def printed(log: Path) -> float:
    """The perplexity that eval_lm.py printed, from its loss in bits, which has more digits."""
    return 2 ** float(re.findall(r"Loss \(base 2\): ([\d.]+)", log.read_text())[-1])


def table(out: Path) -> str:
    reached = perplexities(out)
    lines = ["| | theirs, s | ours, s | ratio | perplexity, theirs / ours |", "|---|---|---|---|---|"]
    for part in PARTS_OF_RUN:
        other, mine = (seconds(out, side, part) for side in ("theirs", "ours"))
        scores = " / ".join(f"{score:.2f}" for score in reached[part]) if part in reached else ""
        lines.append(f"| {part} | {other:.1f} | {mine:.1f} | **{other / mine:.1f}×** | {scores} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True, help="their repository, prepared as README.md says")
    parser.add_argument("--python", required=True, help="the Python that their code runs with")
    parser.add_argument("--results", type=Path, required=True, help="of a study, whose tokens are taken: results/mini")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=500_000, help="of the training text")
    parser.add_argument("--updates", type=int, default=400, help="of training, on each side")
    asked = parser.parse_args()
    out = asked.out.absolute()
    (out / "seconds").mkdir(parents=True, exist_ok=True)
    if not (out / "dev.npy").exists():
        prepare(asked.results, out, asked.tokens)
    entries = len(np.load(out / "train.npy", mmap_mode="r")) - NEW["datastore"]  # their first window is left out
    for step in (*theirs(asked.code.absolute(), asked.python, out, asked.updates, entries), *ours(out, asked.updates)):
        run(step, out)
    print(machine(), table(out), sep="\n\n")


if __name__ == "__main__":
    main()
