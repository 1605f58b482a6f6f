"""Run a script of the published code with the Python, NumPy and PyTorch of today, on a CPU.

    python compat.py SCRIPT [its arguments]

Nothing of the published code is changed: what newer versions removed is put back before the script starts.
"""

import os
import runpy
import sys

import numpy as np
import torch

REMOVED = {"int": int, "float": float, "long": np.int64}
"""names of NumPy that are gone, or mean another type now"""


def put_back() -> None:
    for name, kind in REMOVED.items():
        setattr(np, name, kind)
    load = torch.load
    torch.load = lambda *given, **named: load(*given, **({"weights_only": False} | named))  # its own checkpoints
    full = torch.full
    torch.full = lambda size, value, **named: full(size, value, **({"dtype": torch.get_default_dtype()} | named))
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # knnlm.py moves tensors to a GPU without asking


if __name__ == "__main__":
    put_back()
    script = os.path.abspath(sys.argv[1])
    sys.argv = [script, *sys.argv[2:]]
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")
