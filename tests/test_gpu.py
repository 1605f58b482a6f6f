"""What runs on a GPU gives the CPU's results; skipped where there is none."""

import json

import numpy as np
import pytest
import torch

from knnlm.datastores import ann, exact
from knnlm.models import features, windows
from knnlm.models.model import LanguageModel
from knnlm.settings import IndexSettings, ModelConfig, WindowSettings

needs_torch = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU for torch")
needs_faiss = pytest.mark.skipif(not ann.has_gpus(), reason="no GPU for FAISS (faiss-gpu is not installed?)")
N, D, K = 20_000, 64, 32


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D)).astype(np.float16), rng.standard_normal((100, D)).astype(np.float32)


@needs_torch
@pytest.mark.parametrize("inner_product", [False, True])
def test_exact_distances(data, inner_product: bool) -> None:
    keys, queries = data
    rows = np.random.default_rng(1).integers(-1, N, (len(queries), K))
    found = exact.distances_on("cuda", keys, queries, rows, inner_product)
    np.testing.assert_allclose(found, exact.distances(keys, queries, rows, inner_product), rtol=1e-4, atol=1e-3)


@needs_torch
def test_extracted_keys_and_log_probabilities() -> None:
    torch.manual_seed(0)
    lm = LanguageModel(
        ModelConfig(vocab_size=500, layers=2, dim=64, ffn_dim=128, heads=4, adaptive_cutoffs=(100,))
    ).eval()
    tokens = np.random.default_rng(0).integers(0, 500, 2000).astype(np.uint16)
    chosen = windows.datastore(len(tokens), WindowSettings(new=48, context=16), seed=1)
    runs = []
    for device in ("cpu", "cuda"):
        blocks = list(features.stream(lm.to(device), tokens, chosen, 64, ("ffn_input_ln",), 512, logprob=True))
        runs.append(
            [np.concatenate([b.keys["ffn_input_ln"] for b in blocks]), np.concatenate([b.logprob for b in blocks])]
        )
    for on_cpu, on_gpu in zip(*runs, strict=True):
        np.testing.assert_allclose(on_gpu, on_cpu, atol=2e-3)


@needs_torch
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_learns(precision: str, tmp_path) -> None:
    from test_distributed import ARCHITECTURE, RECIPE

    from knnlm.artifacts import files, npy
    from knnlm.models import train

    rng = np.random.default_rng(0)
    for split in ("train", "dev"):
        npy.save_array(tmp_path / f"{split}.npy", np.tile(rng.permutation(60), 40).astype(np.uint16))
    files.write_json(tmp_path / "vocab.json", {"size": 64})
    recipe = RECIPE | {"optimizer": "adamw", "lr": 0.01, "evaluate_every": 100, "precision": precision}
    paths = [tmp_path / name for name in ("train.npy", "dev.npy", "vocab.json", "model")]
    train.main(train.TrainConfig(*paths, json.dumps(ARCHITECTURE), json.dumps(recipe)))
    curve = [json.loads(line) for line in (tmp_path / "model/curve.jsonl").read_text().splitlines()]
    assert curve[-1]["train_loss"] < curve[0]["train_loss"] - 0.5


@needs_faiss
@pytest.mark.parametrize("factory", ["Flat", "IVF64,Flat", "IVF64,PQ16x8"])
def test_an_index_trained_filled_and_searched(data, factory: str, tmp_path) -> None:
    keys, queries = data
    settings = IndexSettings(factory=factory, nprobe=16)
    found = []
    for place in (lambda index: index, ann.on_gpu):
        index = place(ann.train(keys.astype(np.float32), settings))
        ann.add(index, keys)
        ann.save(index, tmp_path / "index.faiss")
        loaded = ann.load(tmp_path / "index.faiss", settings.nprobe)
        assert loaded.ntotal == N, settings
        found.append(ann.search(ann.on_gpus(loaded), queries, K, np.arange(N))[1])  # [Q, K]
    shared = np.mean([len(set(a) & set(b)) / K for a, b in zip(*found, strict=True)])
    assert shared > 0.9
