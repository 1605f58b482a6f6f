"""The state of a training, saved whole beside the model: a resumed run ends with the same weights."""

import contextlib
import logging
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from knnlm.artifacts import disk, distributed, files
from knnlm.artifacts.files import UserError
from knnlm.models.model import LanguageModel

log = logging.getLogger("knnlm")
SAVED = ("update", "best", "kept", "curve", "loss", "tokens")


@dataclass
class Progress:
    """All that training changes."""

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    update: int = 0
    best: float = math.inf
    kept: dict = field(default_factory=dict)
    curve: list[dict] = field(default_factory=list)
    loss: float = 0.0  # summed nats since the last point of the curve
    tokens: int = 0  # targets since then

    def save(self, path: Path, fingerprint: str) -> None:
        """Called by every process; the first one writes. Raises UserError where a weight is not finite."""
        if not all(torch.isfinite(weight).all() for weight in self.model.parameters()):
            raise UserError(
                f"{path}: not written after update {self.update}: a weight is not finite; lower training.lr"
            )
        state = {name: getattr(self, name) for name in SAVED} | {"fingerprint": fingerprint}
        state |= {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scaler")}
        state["rng"] = distributed.gather(torch.get_rng_state())
        if torch.cuda.is_available():
            state["cuda_rng"] = distributed.gather(torch.cuda.get_rng_state())
        if distributed.rank() == 0:
            with files.atomic(path) as tmp:
                torch.save(state, tmp)

    def restore(self, path: Path, fingerprint: str) -> None:
        """Go on from a saved state of the same recipe, whatever the number of processes that saved it."""
        if not path.exists():
            return
        try:
            with zipfile.ZipFile(path) as archive:  # torch.load compares no checksum
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"{damaged} is damaged")
            state = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch, pickle and zip raise their own kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path}: not a whole training state ({reason}): delete it to train anew") from None
        if state["fingerprint"] != fingerprint:
            log.info("%s was made by another recipe: starting anew", path)
            return
        for name in ("model", "optimizer", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        for name in SAVED:
            setattr(self, name, state[name])
        if len(state["rng"]) == distributed.processes():
            torch.set_rng_state(state["rng"][distributed.rank()])
            if "cuda_rng" in state and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda_rng"][distributed.rank()])
        log.info("resuming after update %d", self.update)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: an orphan of a killed workflow may still be training the same model."""
    with disk.only_one(folder) if distributed.rank() == 0 else contextlib.nullcontext():
        distributed.barrier()
        yield
