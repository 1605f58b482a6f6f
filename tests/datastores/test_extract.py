"""Keys to disk, and straight into an index: the same index as from stored keys."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT

from knnlm.artifacts import description, files, npy
from knnlm.datastores import add, ann, extract, neighbors, search, train_index
from knnlm.models import model
from knnlm.settings import ModelConfig

sys.path.insert(0, str(ROOT / "workflow"))
import study as workflow_study

WINDOWS = '{"new": 16, "context": 16}'
FLAT = json.dumps({"factory": "Flat", "sample": 400})
INDEX = json.dumps({"factory": "IVF8,PQ4x4", "nprobe": 4, "sample": 400})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model with random weights, tokens, two stored shards, and a trained index."""
    at = tmp_path_factory.mktemp("stream")
    torch.manual_seed(0)
    lm = model.LanguageModel(ModelConfig(vocab_size=64, layers=1, dim=16, ffn_dim=32, heads=2))
    (at / "model").mkdir()
    model.save(lm, at / "model")
    description.write_meta(at / "model", "train", {}, {}, role="model")
    npy.save_array(at / "train.npy", np.random.default_rng(0).integers(2, 60, 1500).astype(np.uint16))
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
@pytest.mark.parametrize("block_tokens", [16384, 60])
def test_a_streamed_shard_is_the_stored_shards_index(made, tmp_path, shard, block_tokens):
    add.main(add.AddConfig(made / "trained.faiss", made / f"keys{shard}", tmp_path / "stored.faiss"))
    pair = {"trained": (made / "trained.faiss",), "index": (tmp_path / "streamed.faiss",)}
    extracted(made, tmp_path / "keys", shard=shard, shards=2, block_tokens=block_tokens, **pair)
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
        found.append(neighbors.load(tmp_path / f"of_{kind}"))
    for name in ("ids", "values"):
        np.testing.assert_array_equal(*(getattr(near, name)[:] for near in found))
    assert ann.load(tmp_path / "streamed.faiss").ntotal == len(np.load(tmp_path / "keys/ids.npy"))


def test_two_indexes_are_filled_by_one_forward_pass(made, tmp_path):
    train_index.main(train_index.TrainIndexConfig((made / "keys0", made / "keys1"), tmp_path / "flat.faiss", FLAT))
    trained = made / "trained.faiss", tmp_path / "flat.faiss"
    index = tmp_path / "a.faiss", tmp_path / "b.faiss"
    extracted(made, tmp_path / "keys", shard=1, shards=2, trained=trained, index=index)
    for one, other in zip(trained, index, strict=True):
        add.main(add.AddConfig(one, made / "keys1", tmp_path / "stored.faiss"))
        assert other.read_bytes() == (tmp_path / "stored.faiss").read_bytes()
        described, stored = (description.described(path) for path in (other, tmp_path / "stored.faiss"))
        assert described["lineage"] == stored["lineage"] | {
            "keys": description.described(tmp_path / "keys")["lineage"]["keys"]
        }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keytypes": ("output", "ffn_input_ln")}, "--keytypes names 2 key types and --out 1 directories"),
        ({"trained": ("a", "b"), "index": ("c",)}, "--trained names 2 files and --index 1: give pairs"),
        ({"index": ("c",)}, "--trained names 0 files and --index 1"),
        (
            {"keytypes": ("output", "ffn_input_ln"), "out": ("a", "b"), "trained": ("a",), "index": ("c",)},
            "--keytypes names 2 key types: with --trained and --index give exactly one",
        ),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(options, message):
    with pytest.raises(files.UserError, match=message):
        extract.ExtractConfig(**{"model": "m", "tokens": "t", "keytypes": ("output",), "out": ("o",)} | options)


def test_an_index_of_another_key_type_is_refused(made, tmp_path):
    pair = {"trained": (made / "trained.faiss",), "index": (tmp_path / "x.faiss",)}
    config = extract.ExtractConfig(made / "model", made / "train.npy", ("output",), (tmp_path / "k",), WINDOWS, **pair)
    with pytest.raises(files.UserError, match=r"--keytypes output: .*trained.faiss was trained on ffn_input_ln"):
        extract.main(config)
    assert not list(tmp_path.iterdir())


def test_a_sample_is_the_beginning_of_the_seeded_order(made, tmp_path):
    extracted(made, tmp_path / "sample", entries=40)
    ids = np.load(tmp_path / "sample/ids.npy")
    assert len(ids) == 48  # whole windows
    np.testing.assert_array_equal(ids, np.load(made / "keys0/ids.npy")[:48])
    np.testing.assert_array_equal(np.load(tmp_path / "sample/keys.npy"), np.load(made / "keys0/keys.npy")[:48])


def test_keys_of_single_precision_round_to_those_of_half(made, tmp_path):
    extracted(made, tmp_path / "single", shard=1, shards=2, key_precision="float32")
    single, half = (np.load(folder / "keys.npy") for folder in (tmp_path / "single", made / "keys1"))
    assert (single.dtype, half.dtype) == (np.float32, np.float16)
    np.testing.assert_array_equal(single.astype(np.float16), half)
    assert (single != half).mean() > 0.9
    stored = [description.described(folder)["config"] for folder in (tmp_path / "single", made / "keys1")]
    assert stored[0] == stored[1] | {"key_precision": "float32"}


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
    study["datastores"]["wiki"]["key_precision"] = "float32"
    with pytest.raises(workflow_study.StudyError, match=r"wiki.key_precision.*found float32 beside store_keys: false"):
        workflow_study.load(study)
    assert yaml.safe_load((ROOT / "config/paper.yaml").read_text())["datastores"]["wiki"]["store_keys"] is False


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_entries_are_dealt_in_the_order_of_the_seed(made, tmp_path, seed):
    extracted(made, tmp_path / "keys", seed=seed, shard=2, shards=3, entries=80)
    order = np.random.default_rng(seed).permutation(np.arange(16, 1500, 16))  # 93 windows after one of context
    expected = np.concatenate([np.arange(start, min(start + 16, 1500)) for start in order[62:67]])
    np.testing.assert_array_equal(np.load(tmp_path / "keys/ids.npy"), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "keys/values.npy"), np.load(made / "train.npy")[expected])


def test_each_of_two_indexes_must_be_of_the_key_type(made, tmp_path):
    config = extract.ExtractConfig(
        made / "model", made / "train.npy", ("output",), (tmp_path / "sample",), WINDOWS, entries=400
    )
    extract.main(config)
    train_index.main(train_index.TrainIndexConfig((tmp_path / "sample",), tmp_path / "output.faiss", FLAT))
    pair = made / "trained.faiss", tmp_path / "output.faiss"
    for trained in (pair, pair[::-1]):
        with pytest.raises(files.UserError, match="has keytype output"):
            extracted(made, tmp_path / "keys", trained=trained, index=(tmp_path / "a.faiss", tmp_path / "b.faiss"))
    assert not (tmp_path / "keys").exists()
