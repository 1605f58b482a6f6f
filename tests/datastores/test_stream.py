"""Keys that go straight into an index: the same index as from stored keys."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT

from knnlm.artifacts import files, lineage
from knnlm.datastores import add, ann, extract, search, stream, train_index
from knnlm.models import model
from knnlm.settings import ModelConfig

sys.path.insert(0, str(ROOT / "workflow"))
import study as workflow_study

WINDOWS = '{"new": 16, "context": 16}'
INDEX = json.dumps({"factory": "IVF8,PQ4x4", "nprobe": 4, "sample": 400})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model with random weights, tokens, two stored shards, and a trained index."""
    at = tmp_path_factory.mktemp("stream")
    torch.manual_seed(0)
    lm = model.LanguageModel(ModelConfig(vocab_size=64, layers=1, dim=16, ffn_dim=32, heads=2))
    (at / "model").mkdir()
    model.save(lm, at / "model")
    lineage.write_meta(at / "model", "train", {}, {}, role="model")
    files.save_array(at / "train.npy", np.random.default_rng(0).integers(2, 60, 1500).astype(np.uint16))
    for shard in range(2):
        extracted(at, at / f"keys{shard}", shard=shard, shards=2)
    train_index.main(train_index.TrainIndexConfig((at / "keys0", at / "keys1"), at / "trained.faiss", INDEX))
    return at


def extracted(at, out, **options):
    config = extract.ExtractConfig(
        at / "model", at / "train.npy", ("ffn_input_ln",), (out,), WINDOWS, batch_tokens=96, **options
    )
    extract.main(config)


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("buffered", [stream.BUFFERED, 1000])
def test_a_streamed_shard_is_the_stored_shards_index(made, tmp_path, monkeypatch, shard, buffered):
    monkeypatch.setattr(stream, "BUFFERED", buffered)
    add.main(add.AddConfig(made / "trained.faiss", made / f"keys{shard}", tmp_path / "stored.faiss"))
    stream.main(
        stream.StreamConfig(
            made / "model",
            made / "train.npy",
            (made / "trained.faiss",),
            (tmp_path / "streamed.faiss",),
            tmp_path / "keys",
            windows=WINDOWS,
            shard=shard,
            shards=2,
            batch_tokens=96,
        )
    )
    assert (tmp_path / "streamed.faiss").read_bytes() == (tmp_path / "stored.faiss").read_bytes()
    for name in ("values", "ids"):
        np.testing.assert_array_equal(np.load(tmp_path / f"keys/{name}.npy"), np.load(made / f"keys{shard}/{name}.npy"))
    assert not (tmp_path / "keys/keys.npy").exists()
    found = []
    for kind, keys in (("stored", made / f"keys{shard}"), ("streamed", tmp_path / "keys")):
        config = search.SearchConfig(
            tmp_path / f"{kind}.faiss", keys, (made / "keys0",), 5, (tmp_path / f"of_{kind}",), INDEX
        )
        search.main(config)
        found.append(np.load(tmp_path / f"of_{kind}/ids.npy"))
    np.testing.assert_array_equal(*found)
    assert not (tmp_path / "of_streamed/exact.npy").exists()
    assert ann.load(tmp_path / "streamed.faiss").ntotal == len(np.load(tmp_path / "keys/ids.npy"))


def test_a_sample_is_the_beginning_of_the_seeded_order(made, tmp_path):
    extracted(made, tmp_path / "sample", entries=40)
    ids = np.load(tmp_path / "sample/ids.npy")
    assert len(ids) == 48  # whole windows
    np.testing.assert_array_equal(ids, np.load(made / "keys0/ids.npy")[:48])
    np.testing.assert_array_equal(np.load(tmp_path / "sample/keys.npy"), np.load(made / "keys0/keys.npy")[:48])


def test_exact_distances_ask_for_stored_keys(smoke_config, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = copy.deepcopy(smoke_config)
    study["datastores"]["wiki"]["store_keys"] = False
    with pytest.raises(
        workflow_study.StudyError, match=r"distance: 'exact' needs keys; set datastores.wiki.store_keys"
    ):
        workflow_study.load(study)
    study["datastores"]["wiki"]["distance"] = "quantized"
    workflow_study.load(study)
    assert yaml.safe_load((ROOT / "config/paper.yaml").read_text())["datastores"]["wiki"]["store_keys"] is False
