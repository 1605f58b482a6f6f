"""The state of a running training, saved so that a resumed run ends with the same weights.

On a CPU they are the same to the bit. On GPUs they are where the number and kind of GPUs are the same and the training
is `deterministic`; otherwise sums in another order change the last bits, and after many updates more than those.
"""

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
SAVED_BY_TORCH = ("model", "optimizer", "scaler")


@dataclass
class Progress:
    """Everything that changes during training."""

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    update: int = 0
    best: float = math.inf  # dev loss, nats per token, of the weights kept
    kept: dict = field(default_factory=dict)  # the weights that the finished model will have
    curve: list[dict] = field(default_factory=list)  # points of the learning curve
    loss: float = 0.0  # training loss since the last point, in nats summed over tokens
    tokens: int = 0  # their number

    def save(self, path: Path, fingerprint: str) -> None:
        """Save the state for `restore`; every process calls this, and the first one writes.

        `fingerprint` identifies settings and tokens. Raises UserError where a weight is not finite.
        """
        if not all(torch.isfinite(weight).all() for weight in self.model.parameters()):
            raise UserError(
                f"{path}: not written after update {self.update}: a weight is not finite; lower training.lr"
            )
        state = {name: getattr(self, name) for name in SAVED} | {"fingerprint": fingerprint}
        state |= {name: getattr(self, name).state_dict() for name in SAVED_BY_TORCH}
        state["rng"] = distributed.gather(torch.get_rng_state())
        if torch.cuda.is_available():
            state["cuda_rng"] = distributed.gather(torch.cuda.get_rng_state())
        if distributed.rank() == 0:
            with files.atomic(path) as tmp:
                torch.save(state, tmp)

    def restore(self, path: Path, fingerprint: str) -> None:
        """Go on from a saved state of the same recipe; the number of processes may be another than when it was saved.

        Random numbers go on as well if it is the same. Raises UserError for a damaged file.
        """
        if not path.exists():
            return
        state = _read(path)
        if state["fingerprint"] != fingerprint:
            log.info("%s was saved by a training with other settings or tokens: starting anew", path)
            return
        for name in SAVED_BY_TORCH:
            getattr(self, name).load_state_dict(state[name])
        for name in SAVED:
            setattr(self, name, state[name])
        if len(state["rng"]) == distributed.processes():
            torch.set_rng_state(state["rng"][distributed.rank()])
            if "cuda_rng" in state and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda_rng"][distributed.rank()])
        log.info("resuming after update %d", self.update)


def _read(path: Path) -> dict:
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{damaged} is damaged")
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch, pickle and zipfile raise errors of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a whole training state ({reason}): delete it to train anew") from None


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: a process left behind by a killed workflow may still be training the same model."""
    with disk.only_one(folder) if distributed.rank() == 0 else contextlib.nullcontext():
        distributed.barrier()
        yield
