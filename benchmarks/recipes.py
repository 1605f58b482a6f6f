"""Search the training recipe of mini's `wikitext` model by dev perplexity at a given amount of processor time.

    python -m benchmarks.recipes results/mini --out results/recipes
    python -m benchmarks.recipes results/mini --out results/recipes --share 1.7 --test --cases '{lr: 0.005, layers: 2}'

A case is today's recipe with some settings changed. First the processor time of its updates is measured beside that of
today's, in turns; then it is trained for as many updates as take a share of the time of today's whole recipe. So every
case of a share gets the same processor time, and another program on the machine favors none. The case then scores dev,
by which recipes are compared, and with --test also test. A case that the output folder has is not measured again.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

from benchmarks.__main__ import machine
from benchmarks.harness import ONE_THREAD, environment
from knnlm.artifacts import files
from knnlm.artifacts.cli import checked
from knnlm.artifacts.files import UserError
from knnlm.models import evaluate, train
from knnlm.settings import Architecture, ModelConfig, TrainingSettings

TODAY = {  # mini's recipe before this search
    **{"layers": 4, "dim": 128, "ffn_dim": 512, "heads": 4, "adaptive_cutoffs": [2000, 10000], "dropout": 0.1},
    **{"attention_dropout": 0.0, "activation_dropout": 0.0, "adaptive_dropout": 0.0},
    **{"optimizer": "adamw", "lr": 0.003, "min_lr": 0.0001, "block": 256, "clip_norm": 1.0},
    **{"updates": 3400, "warmup": 200, "tokens_per_update": 512, "tokens_per_batch": 512},
}
WINDOWS = {"new": 128, "context": 128}  # of mini, where dev and test are scored
POINTS = 4  # of the learning curve; each is a pass over dev
TURNS, UPDATES_A_TURN = 9, 8  # of measuring what an update costs
COLUMNS = ("recipe", "an update, × today's", "updates", "epochs", "processor time, s", "perplexity of dev", "of test")

Changes = Mapping[str, object]
BEST = {"layers": 2, "adaptive_factor": 2, "lr": 0.006, "dropout": 0.0}
CASES: Sequence[Changes] = (
    {},
    {"adaptive_factor": 2},
    {"adaptive_factor": 2, "dropout": 0.0},
    {"lr": 0.006, "dropout": 0.0},
    {"tokens_per_update": 256, "dropout": 0.0},
    {"layers": 2, "lr": 0.006, "dropout": 0.0},
    {"layers": 2, "lr": 0.01, "dropout": 0.0},
    {"layers": 2, "adaptive_factor": 1, "lr": 0.006, "dropout": 0.0},
    {"layers": 2, "lr": 0.006, "dropout": 0.0, "tokens_per_update": 1024},
    BEST,
    BEST | {"lr": 0.004},
    BEST | {"layers": 3},
    BEST | {"ffn_dim": 1024},
    BEST | {"dim": 160},
    BEST | {"weight_decay": 0.1},
    BEST | {"adaptive_cutoffs": [4000, 12000]},
)


@dataclass(frozen=True)
class Inputs:
    """Files of a finished results/mini."""

    train: Path
    dev: Path
    test: Path
    vocab: Path


@dataclass(frozen=True)
class Measured:
    """One case at one share of the time of today's recipe."""

    name: str
    share: float
    cost: float
    """processor time of an update, relative to today's"""
    updates: int
    epochs: float
    seconds: float
    """processor time of the training, with its passes over dev"""
    dev: float
    """perplexity"""
    test: float | None
    seed: int = 1


def inputs(results: Path) -> Inputs:
    """Raises UserError where the study's tokens are missing."""
    tokens = results / "tokens/words/wikitext"
    found = Inputs(
        *(tokens / f"{split}.npy" for split in ("train", "dev", "test")), results / "vocabs/words/vocab.json"
    )
    for path in vars(found).values():
        if not path.exists():
            raise UserError(f"{path}: not found: run the mini study (make mini), or name its folder of results")
    return found


def name(changes: Changes) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in changes.items()) or "today's"


def recipe(changes: Changes, updates: int) -> tuple[Architecture, TrainingSettings]:
    """Today's recipe with changes, and a warm-up that takes the same share of the updates as today's.

    Raises UserError for a name that is no setting.
    """
    chosen = TODAY | changes
    chosen["warmup"] = round(chosen["warmup"] / TODAY["updates"] * updates)
    chosen |= {"updates": updates, "evaluate_every": -(-updates // POINTS)}
    chosen["tokens_per_batch"] = max(chosen["block"], min(chosen["tokens_per_batch"], chosen["tokens_per_update"]))
    kinds = Architecture, TrainingSettings
    if unknown := sorted(chosen.keys() - {key for kind in kinds for key in kind.model_fields}):
        raise UserError(f"{unknown[0]}: not a setting of architecture or training (see config/README.md)")
    parts = [{key: chosen[key] for key in kind.model_fields if key in chosen} for kind in kinds]
    return checked(Architecture, parts[0], "architecture"), checked(TrainingSettings, parts[1], "training")


def cost(changes: Changes, tokens: np.ndarray, vocab_size: int) -> float:
    """The processor time of an update relative to today's: the median of turns, in each of which both run."""
    sides = []
    for one in (changes, {}):
        architecture, training = recipe(one, TODAY["updates"])
        config = ModelConfig(**architecture.model_dump(), vocab_size=vocab_size)
        sides.append((train.begin(config, training, 1), training))
    ratios = []
    for _ in range(TURNS + 1):
        took = []
        for state, training in sides:
            began = time.process_time()
            for _ in range(UPDATES_A_TURN):
                train.update(state, tokens, training, 1)
                state.update += 1
            took.append(time.process_time() - began)
        ratios.append(took[0] / took[1])
    return statistics.median(ratios[1:])  # the first turn compiles and allocates


def measure(changes: Changes, share: float, study: Inputs, out: Path, *, test: bool, seed: int = 1) -> Measured:
    """Train a case for a share of the time of today's recipe, and score dev, and test where asked."""
    tokens, size = np.load(study.train), files.read_json(study.vocab)["size"]
    kept = out / f"{name(changes)}.cost"  # measured once, so that a stopped training goes on with as many updates
    if not kept.exists():
        kept.write_text(str(cost(changes, tokens, size) if changes else 1.0))
    times = float(kept.read_text())
    updates = round(TODAY["updates"] * share / times)
    architecture, training = recipe(changes, updates)
    model = out / f"{name(changes)} for {share:g}, seed {seed}".replace("/", "-")
    began = time.process_time()
    asked = architecture.model_dump_json(), training.model_dump_json()
    train.main(train.TrainConfig(study.train, study.dev, study.vocab, model, *asked, seed=seed))
    seconds = time.process_time() - began
    scores = score(model, study.dev), score(model, study.test) if test else None
    epochs = updates * training.tokens_per_update / len(tokens)
    return Measured(name(changes), share, times, updates, epochs, seconds, *scores, seed)


def score(model: Path, tokens: Path) -> float:
    """Perplexity as the mini study computes it."""
    with tempfile.TemporaryDirectory(prefix="knnlm-recipes-") as scratch:
        out = Path(scratch) / "lm"
        asked = evaluate.EvaluateConfig(model, (tokens,), (out,), windows=json.dumps(WINDOWS), batch_tokens=8192)
        evaluate.main(asked)
        return float(np.exp(-np.load(out / "logprob.npy").mean(dtype=np.float64)))


def table(measured: Iterable[Measured]) -> list[str]:
    """Lines of Markdown; the cases of each share from the best on dev."""
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    for one in sorted(measured, key=lambda one: (one.share, one.dev)):
        numbers = f"{one.cost:.2f}", f"{one.updates:,}", f"{one.epochs:.2f}", f"{one.seconds:.0f}", f"{one.dev:.1f}"
        rows.append([one.name, *numbers, "" if one.test is None else f"{one.test:.1f}"])
    return [f"| {' | '.join(row)} |" for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results/mini"), help="of the mini study")
    parser.add_argument("--out", type=Path, default=Path("results/recipes"))
    parser.add_argument("--share", type=float, default=0.25, help="of the processor time of today's recipe")
    parser.add_argument("--cases", nargs="+", type=yaml.safe_load, default=CASES, help="changed settings, as YAML")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--test", action="store_true", help="score test too")
    asked = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        again = [sys.executable, "-m", "benchmarks.recipes", *sys.argv[1:]]
        os.execve(sys.executable, again, environment() | ONE_THREAD)
    try:
        search(inputs(asked.results), asked)
    except UserError as error:
        sys.exit(f"error: {error}")


def search(study: Inputs, asked: argparse.Namespace) -> None:
    """Measure the cases; each is a line of recipes.jsonl as soon as it is measured, and all are in table.md."""
    asked.out.mkdir(parents=True, exist_ok=True)
    kept = asked.out / "recipes.jsonl"
    for changes in asked.cases:
        if (name(changes), asked.share, asked.seed) not in {(one.name, one.share, one.seed) for one in read(kept)}:
            line = json.dumps(asdict(measure(changes, asked.share, study, asked.out, test=asked.test, seed=asked.seed)))
            with kept.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)
    (asked.out / "table.md").write_text("\n".join([machine(), "", *table(read(kept)), ""]), encoding="utf-8")


def read(kept: Path) -> list[Measured]:
    return [Measured(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []


if __name__ == "__main__":
    main()
