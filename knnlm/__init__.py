"""Nearest-neighbor language models: every table and figure of Khandelwal et al. (ICLR 2020)."""

__version__ = "0.1.0"
