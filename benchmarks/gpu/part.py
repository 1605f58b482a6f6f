"""What the parts share: their sizes, made-up inputs, clocks, and the file that keeps what was measured so far."""

import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from benchmarks import inputs
from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.settings import IndexSettings, ModelConfig, TrainingSettings, WindowSettings

ROOT = Path(__file__).parents[2]
VOCAB = 267_744  # words of WikiText-103
PRECISIONS = ("bfloat16", "float16", "float32")
CENTERS = 1000  # points that made-up keys lie around
NO_MEMORY = ("out of memory", "ALLOC_FAILED", "does not fit a GPU's free memory")  # PyTorch, cuBLAS, knnlm with FAISS


@dataclass(frozen=True)
class Sizes:
    """How large the parts' inputs are, and how long one measurement takes."""

    architecture: ModelConfig
    recipe: TrainingSettings
    batches: tuple[int, int]  # tokens of a forward and backward pass
    windows: WindowSettings  # in which keys are extracted
    batch_tokens: int  # of a forward pass
    index: IndexSettings
    seconds: float  # that one measurement lasts at least
    keys: int  # added to the index
    keys_on_cpu: int  # added to the index on a CPU
    reranked: int  # keys that queries are compared with
    queries: int
    streamed: int  # tokens whose keys go from the model into an index
    updates: int  # of the training that is stopped
    pretrained: ModelConfig  # of a model that transformers runs
    pretrained_windows: WindowSettings


def full() -> Sizes:
    """The `wikitext` model of config/paper.yaml and its index; the index is trained on fewer keys than the paper's."""
    study = yaml.safe_load((ROOT / "config/paper.yaml").read_text(encoding="utf-8"))
    model = study["models"]["wikitext"]
    return Sizes(
        architecture=_validated(ModelConfig, model["architecture"] | {"vocab_size": VOCAB}),
        recipe=_validated(TrainingSettings, model["training"]),
        batches=(model["training"]["block"], 3 * model["training"]["block"]),
        windows=_validated(WindowSettings, model["windows"]["datastore"]),
        batch_tokens=model["batch_tokens"],
        index=_validated(IndexSettings, study["indexes"]["ivfpq"] | {"sample": 200_000}),
        seconds=6,
        keys=2_000_000,
        keys_on_cpu=100_000,
        reranked=1_000_000,
        queries=2048,
        streamed=2_000_000,
        updates=10,
        pretrained=ModelConfig(vocab_size=50_257, layers=12, dim=768, ffn_dim=3072, heads=12),  # GPT-2
        pretrained_windows=WindowSettings(new=512, context=512),
    )


def reduced() -> Sizes:
    """Sizes for a test of the parts themselves: the same calls on a CPU in seconds."""
    sizes = full()
    small = {"vocab_size": 500, "layers": 2, "dim": 128, "ffn_dim": 128, "heads": 2, "adaptive_cutoffs": (100, 300)}
    recipe = {"block": 64, "tokens_per_batch": 64, "tokens_per_update": 384}
    return Sizes(
        architecture=sizes.architecture.model_copy(update=small),
        recipe=sizes.recipe.model_copy(update=recipe),
        batches=(64, 192),
        windows=WindowSettings(new=32, context=32),
        batch_tokens=256,
        index=IndexSettings(factory="IVF16,PQ64x8", nprobe=16, sample=2000),
        seconds=0.1,
        keys=4000,
        keys_on_cpu=3000,
        reranked=4000,
        queries=32,
        streamed=2000,
        updates=60,
        pretrained=sizes.architecture.model_copy(update=small | {"adaptive_cutoffs": ()}),
        pretrained_windows=WindowSettings(new=32, context=32),
    )


def _validated(kind: type, values: dict):
    return kind.model_validate_json(json.dumps(values))


class Results:
    """What a part has measured so far. The file is written after each case, so that it outlives a killed part."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, {}
        self._write()

    def put(self, name: str, value: object) -> None:
        self.found[name] = value
        self._write()

    def row(self, table: str, row: dict) -> None:
        self.found.setdefault(table, []).append(row)
        self._write()

    def fail(self, reason: str) -> None:
        """Note what must not be; the part goes on."""
        print(f"FAILED: {reason}", flush=True)
        self.row("failures", {"what": reason})

    def attempt(self, table: str, case: dict, measure: Callable[[], dict]) -> dict | None:
        """Add the case's row: what `measure` returns, and the peak of PyTorch's memory on the GPU.

        A case for which there is too little memory is a row that says so; one that fails is also a failure. Then the
        result is None, and the next case can go on.
        """
        gc.collect()
        if on_gpu():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            found = measure()
            if on_gpu():
                found["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
            row = found
        except (RuntimeError, UserError, MemoryError) as error:
            found, row = None, {"note": _reason(error)}
            if row["note"] != "out of memory" and "needs a GPU" not in row["note"]:
                self.fail(f"{' '.join(map(str, case.values()))}: {row['note']}")
        print(case | row, flush=True)
        self.row(table, case | row)
        return found

    def _write(self) -> None:
        files.write_json(self.path, self.found)


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return "out of memory" if isinstance(error, MemoryError) or any(t in text for t in NO_MEMORY) else text[:300]


def on_gpu() -> bool:
    return torch.cuda.is_available()


def device() -> str:
    return "cuda" if on_gpu() else "cpu"


def clock() -> float:
    """Seconds; all work that a GPU was given before is done."""
    if on_gpu():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_per_call(function: Callable[[], object], seconds: float) -> float:
    """The mean over calls that last `seconds` together, at least one, after a call that is not timed."""
    function()
    began, calls = clock(), 0
    while not calls or clock() - began < seconds:
        function()
        calls += 1
    return (clock() - began) / calls


def words(sizes: Sizes, count: int, seed: int = 1) -> np.ndarray:
    """Tokens [count] uint32 distributed by Zipf's law; a fifth of the full vocabulary's are in the softmax's tails."""
    drawn = inputs.zipf(np.random.default_rng(seed), count, sizes.architecture.vocab_size - 2) + 2
    return drawn.astype(np.uint32)


def keys(count: int, dim: int, seed: int) -> np.ndarray:
    """Keys [count, dim] float16 around points that are the same for every seed, made on the GPU where there is one."""
    points = torch.randn(CENTERS, dim, generator=torch.Generator().manual_seed(0)).to(device())
    random = torch.Generator(device()).manual_seed(seed)
    out = np.empty((count, dim), np.float16)
    for first in range(0, count, 1 << 16):
        near = torch.randint(CENTERS, (min(1 << 16, count - first),), generator=random, device=device())
        noise = torch.randn(len(near), dim, generator=random, device=device())
        out[first : first + len(near)] = (points[near] + 0.5 * noise).half().cpu().numpy()
    return out


def operations(model: ModelConfig, length: int, words: bool) -> int:
    """Floating-point operations of a forward pass for each token, as workflow/resources.py counts them.

    `length` is the tokens of a window. `words`: the output's softmax too, of an adaptive one its first band.
    """
    bands = model.adaptive_cutoffs or (model.vocab_size,)
    layer = 2 * (4 * model.dim**2 + 2 * model.dim * model.ffn_dim) + 2 * length * model.dim
    return model.layers * layer + (2 * bands[0] * model.dim if words else 0)
