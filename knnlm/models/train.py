"""Train a Transformer LM (paper, Section 4.2), the memorizing LM of Section 6, or a pretrained model further."""

import json
import logging
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knnlm.artifacts import description, disk, distributed, files, lineage, npy, stopping
from knnlm.artifacts.cli import checked, parsed, progress, settings
from knnlm.artifacts.files import UserError
from knnlm.models import checkpoint, features, model, schedule, windows
from knnlm.models.checkpoint import Progress
from knnlm.models.model import LanguageModel
from knnlm.models.windows import Windows
from knnlm.settings import ModelConfig, TrainingSettings

log = logging.getLogger("knnlm")
# On disk for each parameter: its value, best value and momentum (of AdamW two) in the state, and the finished model.
SAVED_FLOATS = {"nag": 4, "adamw": 5}
SMALLEST_SCALE = 1.0  # of float16 losses; if gradients overflow even at this scale, training has diverged


@dataclass(frozen=True)
class TrainConfig:
    """Train a language model and keep its weights, its config and its learning curve."""

    train: Path
    """training tokens, .npy"""
    dev: Path
    """held-out tokens, on which the best weights are chosen, .npy"""
    vocab: Path
    """vocab.json, for the vocabulary's size"""
    out: Path
    """model directory"""
    architecture: str = "{}"
    """ModelConfig as JSON, without vocab_size"""
    training: str = "{}"
    """TrainingSettings as JSON"""
    initial: Path | None = None
    """directory of a model, a pretrained one for example, whose weights training goes on from: in place of
    --architecture; dropout is the model's own"""
    seed: int = 1


def main(config: TrainConfig) -> None:
    recipe = settings(TrainingSettings, config.training, "--training")
    inputs = {"train": config.train, "dev": config.dev, "vocab": config.vocab}
    if config.initial:
        inputs["initial"] = config.initial
    shared = lineage.agree(inputs.values(), "vocab")
    size = files.read_json(description.check(config.vocab))["size"]
    start = _start(config, size, recipe.block)
    tokens = _tokens(config.train, config.vocab, size, recipe.train_tokens)
    dev = _tokens(config.dev, config.vocab, size)
    facts = {"architecture": start.model_dump()} if isinstance(start, ModelConfig) else {}
    facts |= {"training": recipe.model_dump(), "seed": config.seed}
    digests = [*map(description.digest, (config.train, config.dev))]
    if config.initial:
        digests.append(description.identity(config.initial))
    fingerprint = json.dumps([*facts.values(), *digests])
    if recipe.deterministic:
        be_deterministic()
    distributed.start()
    resume = config.out.parent / f".{config.out.name}.resume"
    with checkpoint.only_one(resume):
        if _is_finished(config.out, fingerprint):  # by the process whose lock this one has waited for
            log.info("%s: already trained", config.out)
        else:
            state = begin(start, recipe, config.seed)
            saved = SAVED_FLOATS[recipe.optimizer] * 4 * model.parameter_count(state.model)
            files.check_room(config.out, saved - disk.size(resume))
            state.restore(resume / "state.pt", fingerprint)
            _train(state, tokens, dev, recipe, config.seed, lambda: state.save(resume / "state.pt", fingerprint))
            if distributed.rank() == 0:
                _write(config.out, state, facts, inputs, shared, training_tokens=len(tokens), fingerprint=fingerprint)
        distributed.barrier()
        if distributed.rank() == 0:
            disk.remove(resume)
    distributed.stop()


def _tokens(path: Path, vocab: Path, vocab_size: int, first: int | None = None) -> np.ndarray:
    """Tokens [N], at most the `first`; raises UserError where there are none, or one is not in the vocabulary."""
    tokens = npy.open_array(path, "integer", ndim=1)[:first]
    if not len(tokens):
        raise UserError(f"{path}: no tokens: binarize a text that is not empty")
    windows.check_words(tokens, vocab_size, path, vocab)
    return tokens


def _is_finished(out: Path, fingerprint: str) -> bool:
    """Whether `out` is a whole model of the same settings and tokens."""
    try:
        return description.described(description.check(out)).get("fingerprint") == fingerprint
    except UserError:
        return False


def be_deterministic() -> None:
    """Use algorithms that add in one order, in this process and from here on; to be called before a GPU is used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, torch refuses products of matrices
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def begin(start: ModelConfig | LanguageModel, recipe: TrainingSettings, seed: int) -> Progress:
    """A new training, from weights drawn for an architecture or from those of a model.

    Every process has the same initial weights, and random numbers of its own for dropout.
    """
    torch.manual_seed(seed)
    lm = (LanguageModel(start) if isinstance(start, ModelConfig) else start).to(features.device())
    if distributed.rank():
        torch.manual_seed(seed + 1000003 * distributed.rank())
    half = recipe.precision == "float16"
    if half and features.device() == "cpu":
        raise UserError("training.precision float16 needs a GPU: use float32 or bfloat16 here")
    return Progress(
        lm, schedule.optimizer(lm.parameters(), recipe), torch.amp.GradScaler(features.device(), enabled=half)
    )


def _start(config: TrainConfig, vocab_size: int, block: int) -> ModelConfig | LanguageModel:
    """What training begins with: an architecture, or a model that can read whole blocks."""
    asked = parsed(config.architecture, "--architecture")
    if config.initial is None:
        return checked(ModelConfig, asked | {"vocab_size": vocab_size}, "--architecture")
    if asked:
        raise UserError(f"--architecture: found {config.architecture}, but --initial has its own: keep one of the two")
    lm: Any = model.load(config.initial)
    if described := getattr(lm.config, "description", ""):
        lm.config = replace(lm.config, description=f"{described}, trained further")
    positions = getattr(lm.config, "positions", block)  # our own model's have no end
    if block > positions:
        raise UserError(
            f"training.block: found {block}, but {config.initial} reads at most {positions} tokens: lower it to that"
        )
    return lm


def _write(out: Path, state: Progress, settings: dict, inputs: dict, shared: dict, **facts: object) -> None:
    state.model.load_state_dict(state.kept)
    with files.atomic(out, directory=True) as tmp:
        model.save(state.model, tmp)
        (tmp / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in state.curve))
        facts["processes"] = distributed.processes()
        description.write_meta(tmp, "train", settings, inputs, shared, "model", **facts)


def _train(state: Progress, tokens: np.ndarray, dev: np.ndarray, recipe: TrainingSettings, seed: int, save) -> None:
    """Run the remaining updates; at a SIGTERM, save the state and raise UserError.

    A SLURM job that is stopped at its time limit is queued again: it has made an update, so the last one will come.
    """
    saved = time.monotonic()
    done, total = (updates * recipe.tokens_per_update for updates in (state.update, recipe.updates))
    with stopping.noted_signals() as signals, progress(None, "training", total, "token", done) as bar:
        while state.update < recipe.updates and not (state.curve and state.curve[-1]["train_loss"] < recipe.stop_loss):
            update(state, tokens, recipe, seed)
            state.update += 1
            bar.update(recipe.tokens_per_update)
            if state.update % recipe.evaluate_every == 0 or state.update == recipe.updates:
                _evaluate(state, dev, recipe, len(tokens))
                losses = state.curve[-1]["train_loss"], state.curve[-1]["dev_loss"]
                bar.set_postfix_str("loss {:.3f} (train), {:.3f} (dev)".format(*losses), refresh=False)
            stop, due = distributed.any_of(bool(signals), time.monotonic() - saved > recipe.save_every)
            if stop or due:
                save()
                saved = time.monotonic()
            if stop:
                raise stopping.stopped(f"update {state.update}", requeues=not distributed.rank())


def update(state: Progress, tokens: np.ndarray, recipe: TrainingSettings, seed: int) -> None:
    """One optimiser step: gradients summed over tokens, divided by their number, clipped."""
    blocks = windows.training(len(tokens), recipe.block, recipe.tokens_per_update // recipe.block, state.update, seed)
    total = _backward(state, tokens, blocks, recipe)
    state.scaler.unscale_(state.optimizer)
    clipped = torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
    loss, norm = torch.stack([total, clipped.double()]).tolist()  # the only wait for a GPU in an update
    overflowed = state.scaler.is_enabled() and state.scaler.get_scale() > SMALLEST_SCALE  # the scaler skips the step
    if not math.isfinite(loss) or not (math.isfinite(norm) or overflowed):
        raise UserError(
            f"update {state.update}: loss {loss:.4g}, gradient norm {norm:.4g} in the blocks at tokens "
            f"{blocks.start[:4].tolist()}…: lower training.lr or raise training.warmup"
        )
    for group in state.optimizer.param_groups:
        group["lr"] = schedule.cosine(state.update, recipe.warmup, recipe.updates, recipe.lr, recipe.min_lr)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.loss += loss * blocks.tokens
    state.tokens += blocks.tokens


def _backward(state: Progress, tokens: np.ndarray, blocks: Windows, recipe: TrainingSettings) -> Tensor:
    """Gradients of the mean loss over all blocks, batch by batch, on all processes; returns the loss in nats."""
    lm, where = state.model.train(), next(state.model.parameters()).device
    state.optimizer.zero_grad(set_to_none=True)
    rows = recipe.tokens_per_batch // recipe.block
    firsts = range(0, len(blocks.start), rows)[distributed.rank() :: distributed.processes()]
    total = torch.zeros((), dtype=torch.float64, device=where)
    parts = [blocks.take(np.arange(first, min(first + rows, len(blocks.start)))) for first in firsts]
    for part in parts[:-1]:
        total += _backward_batch(state, tokens, part, blocks.tokens, recipe)
    with distributed.summing_gradients(lm.parameters()):
        for part in parts[-1:]:  # none in a process without a batch in this update
            total += _backward_batch(state, tokens, part, blocks.tokens, recipe)
    return distributed.summed(total)


def _backward_batch(
    state: Progress, tokens: np.ndarray, part: Windows, all_tokens: int, recipe: TrainingSettings
) -> Tensor:
    """Add one batch's gradients; returns its part of the mean loss over `all_tokens`, without waiting for a GPU."""
    lm, where = state.model, next(state.model.parameters()).device
    inputs, targets, predicted = windows.batch(tokens, part, recipe.block, lm.eos)
    with features.autocast(where, recipe.precision):
        hidden = lm(torch.from_numpy(inputs)).flatten(0, 1)  # [B * T, D]
        if not predicted.all():  # the stream's last block is shorter
            hidden = hidden[features.on_device(np.flatnonzero(predicted), where)]
        loss = -lm.target_logprob(hidden, torch.from_numpy(targets[predicted])).sum() / all_tokens
    state.scaler.scale(loss).backward()
    return loss.detach()


def _evaluate(state: Progress, dev: np.ndarray, recipe: TrainingSettings, train_tokens: int) -> None:
    """Add a point to the learning curve, and keep the weights if they are the best or `keep` is "last"."""
    start = np.arange(0, len(dev), recipe.block)
    blocks = Windows(start, start, np.minimum(start + recipe.block, len(dev)))
    total = sum(
        float(block.logprob.sum(dtype=np.float64))
        for block in features.stream(state.model.eval(), dev, blocks, recipe.block, (), 4096, logprob=True)
    )
    dev_loss = -total / len(dev)
    if not math.isfinite(dev_loss):
        raise UserError(f"update {state.update}: the loss on dev is {dev_loss:.4g}: lower training.lr")
    seen = state.update * recipe.tokens_per_update
    state.curve.append(
        {
            "update": state.update,
            "epoch": seen / train_tokens,
            "tokens": seen,
            "train_loss": state.loss / state.tokens,
            "dev_loss": dev_loss,
            "lr": state.optimizer.param_groups[0]["lr"],
        }
    )
    state.loss, state.tokens = 0.0, 0
    if recipe.keep == "last" or dev_loss < state.best:
        state.best = dev_loss
        state.kept = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}
