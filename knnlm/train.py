"""Stage: train a Transformer LM (paper, Section 4.2); the memorizing LM is one without dropout (Section 6)."""

import dataclasses
import json
import logging
import math
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from knnlm import features, files, model, schedule, windows
from knnlm.cli import progress, run, settings
from knnlm.files import UserError
from knnlm.model import LanguageModel, ModelConfig
from knnlm.windows import Windows

log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class TrainingSettings:
    """The recipe; the defaults are the paper's for WikiText-103."""

    optimizer: str = "nag"
    """nag, as published, or adamw"""
    lr: float = 1.0
    min_lr: float = 1e-4
    warmup: int = 16000
    """updates of linear warm-up"""
    updates: int = 286000
    tokens_per_update: int = 73728
    """over all devices and accumulation steps"""
    tokens_per_batch: int = 3072
    """in one forward pass on one device"""
    block: int = 3072
    """the token stream is cut every `block` tokens"""
    clip_norm: float = 0.1
    weight_decay: float = 0.0
    precision: str = "float32"
    """of the matrix products on a GPU: float32 or bfloat16"""
    evaluate_every: int = 2000
    """updates between two points of the learning curve"""
    save_every: float = 600.0
    """seconds between two saves of the resume state"""
    train_tokens: int | None = None
    """train on the first so many tokens only; all of them by default"""
    stop_loss: float = 0.0
    """stop once the training loss (nats per token) is below this"""
    keep: str = "best"
    """best: the weights with the lowest dev loss; last: the final ones"""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", ("nag", "adamw")),
            ("precision", ("float32", "bfloat16")),
            ("keep", ("best", "last")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}: use {' or '.join(allowed)}")
        if self.tokens_per_update % self.tokens_per_batch or self.tokens_per_batch % self.block:
            raise ValueError(
                f"tokens_per_update {self.tokens_per_update}, tokens_per_batch {self.tokens_per_batch} and block "
                f"{self.block}: each must be a multiple of the next"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Train a language model and keep its weights, its config and its learning curve."""

    train: Path
    """training tokens, .npy"""
    dev: Path
    """tokens that choose the best weights, .npy"""
    vocab: Path
    """vocab.json, for the vocabulary's size"""
    out: Path
    """model directory"""
    architecture: str = "{}"
    """ModelConfig as JSON, without vocab_size"""
    training: str = "{}"
    """TrainingSettings as JSON"""
    seed: int = 1


@dataclass
class Progress:
    """All that training changes; saved and restored whole, so that a resumed run ends with the same weights."""

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    update: int = 0
    seconds: float = 0.0
    best: float = math.inf
    kept: dict = field(default_factory=dict)
    curve: list[dict] = field(default_factory=list)
    loss: float = 0.0  # summed nats since the last point of the curve
    tokens: int = 0  # targets since then

    def save(self, path: Path, fingerprint: str) -> None:
        state = {name: getattr(self, name) for name in ("update", "seconds", "best", "kept", "curve", "loss", "tokens")}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"rng": torch.get_rng_state(), "fingerprint": fingerprint}
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state()
        with files.atomic(path) as tmp:
            torch.save(state, tmp)

    def restore(self, path: Path, fingerprint: str) -> None:
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state.pop("fingerprint") != fingerprint:
            log.info("%s was made by another recipe: starting anew", path)
            return
        self.model.load_state_dict(state.pop("model"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        torch.set_rng_state(state.pop("rng"))
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state.pop("cuda_rng"))
        for name, value in state.items():
            setattr(self, name, value)
        log.info("resuming after update %d", self.update)


def main(config: TrainConfig) -> None:
    recipe = settings(TrainingSettings, config.training, "--training")
    size = files.read_json(config.vocab)["size"]
    architecture = settings(
        ModelConfig, json.dumps(json.loads(config.architecture) | {"vocab_size": size}), "--architecture"
    )
    tokens = files.open_array(config.train, "integer", ndim=1)[: recipe.train_tokens]
    dev = files.open_array(config.dev, "integer", ndim=1)
    for path, array in ((config.train, tokens), (config.dev, dev)):
        if not len(array):
            raise UserError(f"{path}: no tokens")
        if int(array.max()) >= size:
            raise UserError(f"{path}: token {array.max()} is outside {config.vocab}'s {size} words")
    torch.manual_seed(config.seed)
    lm = LanguageModel(architecture).to(features.device())
    state = Progress(lm, _optimizer(lm, recipe))
    resume = config.out.parent / f".{config.out.name}.resume" / "state.pt"
    fingerprint = json.dumps(
        [dataclasses.asdict(architecture), dataclasses.asdict(recipe), config.seed, files.digest(config.train)]
    )
    state.restore(resume, fingerprint)
    _train(state, tokens, dev, recipe, config.seed, lambda: state.save(resume, fingerprint))
    lm.load_state_dict(state.kept)
    with files.atomic(config.out, directory=True) as tmp:
        model.save(lm, tmp)
        (tmp / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in state.curve))
        files.write_meta(
            tmp,
            "train",
            {"architecture": architecture, "training": recipe, "seed": config.seed},
            {"train": config.train, "dev": config.dev, "vocab": config.vocab},
            training_tokens=len(tokens),
        )
    resume.unlink(missing_ok=True)
    if resume.parent.exists():
        resume.parent.rmdir()


def _optimizer(lm: LanguageModel, recipe: TrainingSettings) -> torch.optim.Optimizer:
    if recipe.optimizer == "nag":
        return schedule.NAG(
            lm.parameters(), schedule.cosine(0, recipe.warmup, recipe.updates, recipe.lr, recipe.min_lr)
        )
    return torch.optim.AdamW(
        lm.parameters(), recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )


def _train(state: Progress, tokens: np.ndarray, dev: np.ndarray, recipe: TrainingSettings, seed: int, save) -> None:
    """Run the remaining updates; SIGTERM saves the state and exits with code 1."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    began = saved = time.monotonic()
    earlier = state.seconds
    with progress(None, "training", recipe.updates * recipe.tokens_per_update, "tok") as bar:
        bar.update(state.update * recipe.tokens_per_update)
        while state.update < recipe.updates and not (state.curve and state.curve[-1]["train_loss"] < recipe.stop_loss):
            _update(state, tokens, recipe, seed)
            state.update += 1
            bar.update(recipe.tokens_per_update)
            if state.update % recipe.evaluate_every == 0 or state.update == recipe.updates:
                state.seconds = earlier + time.monotonic() - began
                _evaluate(state, dev, recipe, len(tokens))
                bar.set_postfix(train=state.curve[-1]["train_loss"], dev=state.curve[-1]["dev_loss"])
            if stopping or time.monotonic() - saved > recipe.save_every:
                save()
                saved = time.monotonic()
            if stopping:
                raise UserError(f"stopped by signal {stopping[0]} after update {state.update}: run again to go on")


def _update(state: Progress, tokens: np.ndarray, recipe: TrainingSettings, seed: int) -> None:
    """One optimiser step: gradients summed over tokens, divided by their number, clipped."""
    lm, where = state.model.train(), next(state.model.parameters()).device
    blocks = windows.training(len(tokens), recipe.block, recipe.tokens_per_update // recipe.block, state.update, seed)
    state.optimizer.zero_grad(set_to_none=True)
    rows = recipe.tokens_per_batch // recipe.block
    total = 0.0
    for first in range(0, len(blocks.start), rows):
        part = blocks.take(np.arange(first, min(first + rows, len(blocks.start))))
        inputs, targets, predicted = (torch.from_numpy(x).to(where) for x in windows.batch(tokens, part, recipe.block))
        precision = getattr(torch, recipe.precision)
        with torch.autocast(where.type, dtype=precision, enabled=recipe.precision != "float32"):
            hidden = lm(inputs)
            loss = -lm.target_logprob(hidden[predicted], targets[predicted]).sum() / blocks.tokens
        loss.backward()
        total += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(lm.parameters(), recipe.clip_norm)
    if not math.isfinite(total) or not math.isfinite(norm):
        raise UserError(
            f"update {state.update}: loss {total:.4g}, gradient norm {norm:.4g} in the blocks at tokens "
            f"{blocks.start[:4].tolist()}…: lower training.lr or raise training.warmup"
        )
    for group in state.optimizer.param_groups:
        group["lr"] = schedule.cosine(state.update, recipe.warmup, recipe.updates, recipe.lr, recipe.min_lr)
    state.optimizer.step()
    state.loss += total * blocks.tokens
    state.tokens += blocks.tokens


def _evaluate(state: Progress, dev: np.ndarray, recipe: TrainingSettings, train_tokens: int) -> None:
    """Add a point to the learning curve and keep the weights if they are the ones wanted."""
    start = np.arange(0, len(dev), recipe.block)
    blocks = Windows(start, start, np.minimum(start + recipe.block, len(dev)))
    total = sum(
        float(block.logprob.sum(dtype=np.float64))
        for block in features.stream(state.model.eval(), dev, blocks, recipe.block, (), 4096, logprob=True)
    )
    dev_loss = -total / len(dev)
    seen = state.update * recipe.tokens_per_update
    state.curve.append(
        {
            "update": state.update,
            "epoch": seen / train_tokens,
            "tokens": seen,
            "train_loss": state.loss / state.tokens,
            "dev_loss": dev_loss,
            "lr": state.optimizer.param_groups[0]["lr"],
            "seconds": round(state.seconds, 3),
        }
    )
    state.loss, state.tokens = 0.0, 0
    if recipe.keep == "last" or dev_loss < state.best:
        state.best = dev_loss
        state.kept = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}


if __name__ == "__main__":
    run(main, TrainConfig)
