"""Nearest-neighbor language models: every table and figure of Khandelwal et al. (ICLR 2020)."""

import os

__version__ = "0.1.0"

if "OMP_NUM_THREADS" in os.environ:  # numba and tokenizers have their own variables, read when they are first used
    for name in ("NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(name, os.environ["OMP_NUM_THREADS"].partition(",")[0])
