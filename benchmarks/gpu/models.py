"""The parts that run the language model: training, extraction of keys, and a training that is stopped and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from benchmarks.gpu import part
from benchmarks.gpu.part import PRECISIONS, ROOT, Results, Sizes
from knnlm.artifacts import files, huggingface, npy
from knnlm.models import features, train, windows
from knnlm.models.model import LanguageModel
from knnlm.models.pretrained import PretrainedConfig, PretrainedLM
from knnlm.models.windows import Windows
from knnlm.settings import KEYTYPES, MAIN_KEYTYPE, OTHER_KEYTYPES

WARM_UPS = 2
STOPPED_LAYERS = 4  # of the model whose training is stopped, so that its state is a quarter of the whole model's


def training(sizes: Sizes, results: Results, scratch: Path) -> None:
    """Whole updates, gradients clipped and weights changed, in three precisions and two batch sizes."""
    tokens = part.words(sizes, 20 * sizes.recipe.tokens_per_update)
    for precision in PRECISIONS:
        for batch in sizes.batches:
            case = {"precision": precision, "tokens_per_batch": batch}
            results.attempt("updates", case, partial(updates, sizes, tokens, precision, batch))


def updates(sizes: Sizes, tokens: np.ndarray, precision: str, batch: int) -> dict:
    recipe = sizes.recipe.model_copy(update={"precision": precision, "tokens_per_batch": batch})
    state = train.begin(sizes.architecture, recipe, seed=1)
    for _ in range(WARM_UPS):
        train.update(state, tokens, recipe.model_copy(update={"tokens_per_update": batch}), seed=1)
        state.update += 1
    began, done = part.clock(), 0
    while not done or part.clock() - began < sizes.seconds:
        train.update(state, tokens, recipe, seed=1)
        state.update += 1
        done += 1
    rate = done * recipe.tokens_per_update / (part.clock() - began)
    operations = 3 * part.operations(sizes.architecture, recipe.block, words=True)
    return {"tokens_per_second": rate, "operations_per_second": operations * rate, "updates": done}


@dataclass
class Passes:
    """A model of random weights, and windows of tokens to run it over."""

    sizes: Sizes
    lm: LanguageModel | PretrainedLM
    tokens: np.ndarray
    chosen: Windows

    def timed(self, precision: features.Precision, keytypes: tuple[str, ...]) -> dict:
        """From the end of one batch to that of a later one: on a GPU, the next batch is always under way."""
        window, count = self.sizes.windows, 0
        again = self.chosen.take(np.arange(20 * len(self.chosen.start)) % len(self.chosen.start))
        how = {"precision": precision, "half_keys": "these weights do not fit it"}
        blocks = features.stream(self.lm, self.tokens, again, window.length, keytypes, self.sizes.batch_tokens, **how)
        for _ in range(WARM_UPS):
            next(blocks)
        began = time.perf_counter()
        for block in blocks:
            count += len(block.values)
            if time.perf_counter() - began >= self.sizes.seconds:
                break
        rate = count / (time.perf_counter() - began)
        blocks.close()
        operations = part.operations(self.sizes.architecture, window.length, words=False) * window.length / window.new
        return {"tokens_per_second": rate, "operations_per_second": operations * rate}

    def whole(self, precision: features.Precision) -> features.Block:
        """All key types as float32, and log-probabilities, of two windows in one batch."""
        few, length = self.chosen.take(np.arange(2)), self.sizes.windows.length
        batch = 2 * length
        return next(features.stream(self.lm, self.tokens, few, length, KEYTYPES, batch, True, precision))


def extraction(sizes: Sizes, results: Results, scratch: Path) -> None:
    """The forward pass with 1 and 11 key types as float16 in this machine's memory; what half precision changes."""
    torch.manual_seed(1)
    lm = LanguageModel(sizes.architecture).eval().to(part.device())
    tokens = part.words(sizes, 100 * sizes.batch_tokens)
    passes = Passes(sizes, lm, tokens, windows.datastore(len(tokens), sizes.windows, seed=1))
    for precision in PRECISIONS:
        for keytypes in ((MAIN_KEYTYPE,), OTHER_KEYTYPES):
            case = {"precision": precision, "key_types": len(keytypes)}
            results.attempt("passes", case, partial(passes.timed, precision, keytypes))
    expected = passes.whole("float32")
    for precision in PRECISIONS[:2]:
        case = {"precision": precision}
        results.attempt("changes_of_log_probabilities", case, partial(changes, passes, expected, precision, results))


def pretrained(sizes: Sizes, results: Results, scratch: Path) -> None:
    """The forward pass of a model that transformers runs, with one key type as float16 in this machine's memory."""
    sizes = replace(sizes, architecture=sizes.pretrained, windows=sizes.pretrained_windows)
    model, library = sizes.architecture, huggingface.transformers()
    width = {"n_embd": model.dim, "n_inner": model.ffn_dim, "n_layer": model.layers, "n_head": model.heads}
    settings = library.GPT2Config(**width, vocab_size=model.vocab_size, n_positions=sizes.windows.length)
    facts = PretrainedConfig(
        "gpt2", model.dim, model.vocab_size, model.layers, sizes.windows.length, 0, None, settings.to_dict()
    )
    torch.manual_seed(1)
    lm = PretrainedLM(facts, library.GPT2LMHeadModel(settings)).eval().to(part.device())
    tokens = part.words(sizes, 100 * sizes.batch_tokens)
    passes = Passes(sizes, lm, tokens, windows.datastore(len(tokens), sizes.windows, seed=1))
    for precision in PRECISIONS:
        results.attempt("passes", {"precision": precision}, partial(passes.timed, precision, (MAIN_KEYTYPE,)))


def changes(passes: Passes, expected: features.Block, precision: features.Precision, results: Results) -> dict:
    """How keys and log-probabilities differ from those of float32."""
    found = passes.whole(precision)
    for name, keys in expected.keys.items():
        change = found.keys[name] - keys
        row = {"precision": precision, "key_type": name, "largest_change": float(np.abs(change).max())}
        row["rms_change"], row["rms_of_key"] = (float(np.sqrt(np.square(a).mean())) for a in (change, keys))
        results.row("changes_of_keys", row)
    nats = np.abs(found.logprob - expected.logprob)
    return {"largest_change_nats": float(nats.max()), "mean_change_nats": float(nats.mean())}


def resuming(sizes: Sizes, results: Results, scratch: Path) -> None:
    """`knnlm train` by torchrun in one process, with NCCL on a GPU: once as a whole, once stopped and resumed."""
    for split, count in (("train", 40), ("dev", 1)):
        npy.save_array(scratch / f"{split}.npy", part.words(sizes, count * sizes.recipe.block))
    files.write_json(scratch / "vocab.json", {"size": sizes.architecture.vocab_size})
    finish(sizes, results, scratch, "whole")
    run, state = start(sizes, scratch, "model"), scratch / ".model.resume/state.pt"
    while not state.exists() and run.poll() is None:
        time.sleep(0.01)
    began = time.monotonic()
    run.send_signal(signal.SIGTERM)
    status = run.wait()
    results.put("seconds_from_sigterm_to_the_end", time.monotonic() - began)
    if not status or not state.exists() or (scratch / "model").exists():
        raise RuntimeError(f"the stopped training ended with status {status}, or without a saved state")
    results.put("state_gb", state.stat().st_size / 1e9)
    finish(sizes, results, scratch, "model")
    whole, resumed = (load_file(scratch / name / "model.safetensors") for name in ("whole", "model"))
    difference = max(float(np.abs(resumed[name] - weights).max()) for name, weights in whole.items())
    results.put("largest_difference_of_a_weight", difference)
    if difference:
        results.fail(f"a resumed deterministic training ends with weights that differ by {difference:.3g}")


def finish(sizes: Sizes, results: Results, scratch: Path, name: str) -> None:
    """Train to the end; raises RuntimeError if that fails."""
    began = time.monotonic()
    if status := start(sizes, scratch, name).wait():
        raise RuntimeError(f"the training of {name!r} ended with status {status}")
    results.put(f"seconds_of_{name}", time.monotonic() - began)


def start(sizes: Sizes, scratch: Path, name: str) -> subprocess.Popen:
    """Start a deterministic training of a few updates. The one that is stopped saves its state after each."""
    architecture = sizes.architecture.model_dump(exclude={"vocab_size"})
    architecture["layers"] = min(STOPPED_LAYERS, architecture["layers"])
    batch = sizes.batches[0]
    recipe = {"tokens_per_batch": batch, "tokens_per_update": 2 * batch, "updates": sizes.updates, "warmup": 2}
    recipe |= {"precision": "bfloat16", "deterministic": True, "evaluate_every": sizes.updates}
    recipe |= {"save_every": 1e9 if name == "whole" else 1e-9}
    flags = {split: scratch / f"{split}.npy" for split in ("train", "dev")} | {"vocab": scratch / "vocab.json"}
    flags |= {"out": scratch / name, "architecture": json.dumps(architecture)}
    flags |= {"training": json.dumps(sizes.recipe.model_dump() | recipe)}
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "1", "--shutdown-timeout", "100", "-m"]
    words = [*torchrun, "knnlm", "train", *(word for flag in flags.items() for word in (f"--{flag[0]}", str(flag[1])))]
    return subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, env=os.environ)
