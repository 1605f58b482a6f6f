"""Nearest-neighbor language models: every table and figure of Khandelwal et al. (ICLR 2020)."""

import os

__version__ = "0.1.0"

if "OMP_NUM_THREADS" in os.environ:  # numba has its own variable, read when it is first imported
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
