"""A datastore ten times as large, in ten times as many shards, needs no more memory in any job."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from knnlm.artifacts import description, npy
from knnlm.datastores import add, extract, merge, rerank, search, train_index
from knnlm.models import evaluate, model
from knnlm.settings import ModelConfig

SHARD, D, Q, K = 100_000, 32, 17_000, 128  # entries, dimensions, queries, neighbors
WINDOWS = '{"new": 64, "context": 0}'
INDEX = json.dumps({"factory": "IVF16,PQ8x4", "nprobe": 1, "sample": 5000})
KEYS = "ffn_input_ln"


def peak(module: str, config: object) -> int:
    """The most memory in bytes, without mapped files, that a verb occupied when run as a process."""
    options = {name.replace("_", "-"): value for name, value in vars(config).items() if value not in (None, False)}
    flags = [
        [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])] for name, value in options.items()
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "knnlm", module, *(part for flag in flags for part in flag)]
    process, most = subprocess.Popen(command, env=environment), 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        most = max(most, *(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon")), 0)
        time.sleep(0.002)
    assert process.returncode == 0
    return most


def peaks(at: Path, shards: int) -> dict[str, int]:
    """The peak memory of each verb from tokens to merged neighbors, for one shard's job where there are several."""
    torch.manual_seed(0)
    lm = model.LanguageModel(ModelConfig(vocab_size=64, layers=1, dim=D, ffn_dim=D, heads=1))
    (at / "model").mkdir(parents=True)
    model.save(lm, at / "model")
    description.write_meta(at / "model", "train", {}, {})
    rng = np.random.default_rng(0)
    for split, size in (("train", shards * SHARD), ("dev", Q)):
        npy.save_array(at / f"{split}.npy", rng.integers(2, 60, size).astype(np.uint16))
    found = {}

    def measured(module, verb, config, first):
        if first:
            found[module] = peak(module, config)
        else:
            verb.main(config)

    stores = tuple(at / f"keys{shard}" for shard in range(shards))
    for shard, store in enumerate(stores):
        options = {"windows": WINDOWS, "shard": shard, "shards": shards, "batch_tokens": 4096}
        config = extract.ExtractConfig(at / "model", at / "train.npy", (KEYS,), (store,), **options)
        measured("extract", extract, config, shard == 0)
    measured("train_index", train_index, train_index.TrainIndexConfig(stores, at / "trained.faiss", INDEX), True)
    queries, scores = at / "queries", at / "logprob"
    evaluate.main(
        evaluate.EvaluateConfig(at / "model", (at / "dev.npy",), (scores,), (KEYS,), (queries,), windows=WINDOWS)
    )
    for shard, store in enumerate(stores):
        index, out = at / f"shard{shard}.faiss", at / f"neighbors{shard}"
        measured("add", add, add.AddConfig(at / "trained.faiss", store, index), shard == 0)
        measured("search", search, search.SearchConfig(index, store, (queries,), K, (out,), INDEX), shard == 0)
    measured("merge", merge, merge.MergeConfig(tuple(at / f"neighbors{s}" for s in range(shards)), (at / "all",)), True)
    held = SHARD * D * 2e-9  # GB, of a whole shard
    measured("rerank", rerank, rerank.RerankConfig((at / "all",), stores, (queries,), (at / "final",), held), True)
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_memory_does_not_grow_with_the_datastore(tmp_path):
    assert Q * K > merge.CELLS  # both sizes are merged in blocks
    small, large = (peaks(tmp_path / str(shards), shards) for shards in (1, 10))
    print({name: (small[name] >> 20, large[name] >> 20) for name in small})
    for name in small:
        assert large[name] < 1.1 * small[name] + (16 << 20), name
