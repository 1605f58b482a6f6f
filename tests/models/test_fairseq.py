"""Published checkpoints and datastores: what is taken, what is refused by name, and that no code in them is run."""

import argparse
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from knnlm.artifacts.files import UserError, read_json
from knnlm.datastores import import_datastore
from knnlm.datastores.import_datastore import ImportDatastoreConfig
from knnlm.models import fairseq, import_fairseq, model
from knnlm.models.import_fairseq import ImportFairseqConfig
from knnlm.settings import ModelConfig

RUN = Path(__file__).parents[1] / "data/oracles/fairseq_run"
N, D = 10, 4


@pytest.fixture(scope="module")
def checkpoint():
    return fairseq.load_checkpoint(RUN / "checkpoint_best.pt")


@pytest.fixture
def save(tmp_path, checkpoint):
    """Import a checkpoint that differs from the reference in some arguments and weights; the model directory."""

    def saved(arguments=(), state=(), dictionary=RUN / "dict.txt", extra=None, **how):
        args = argparse.Namespace(**(checkpoint[0] | dict(arguments)))
        weights = {k: v for k, v in (checkpoint[1] | dict(state)).items() if v is not None}
        torch.save({"args": args, "model": weights, "extra_state": extra}, tmp_path / "checkpoint.pt", **how)
        import_fairseq.main(ImportFairseqConfig(tmp_path / "checkpoint.pt", dictionary, tmp_path / "model"))
        return tmp_path / "model"

    return saved


def test_every_argument_of_the_architecture_comes_from_the_file(checkpoint):
    changed = {"decoder_layers": 3, "decoder_embed_dim": 24, "decoder_input_dim": 24, "decoder_output_dim": 24}
    changed |= {"decoder_ffn_embed_dim": 48, "decoder_attention_heads": 6, "dropout": 0.11, "attention_dropout": 0.12}
    changed |= {"activation_dropout": 0.13, "adaptive_softmax_dropout": 0.14}
    changed |= {"adaptive_input_cutoff": "50,90", "adaptive_softmax_cutoff": "50,90"}
    changed |= {"adaptive_input_factor": 2, "adaptive_softmax_factor": 2}
    found = fairseq.architecture(checkpoint[0] | changed, vocab_size=304)
    assert found == ModelConfig(
        **{"vocab_size": 304, "layers": 3, "dim": 24, "ffn_dim": 48, "heads": 6, "adaptive_cutoffs": (50, 90)},
        **{"adaptive_factor": 2, "tie_embeddings": False, "dropout": 0.11, "attention_dropout": 0.12},
        **{"activation_dropout": 0.13, "adaptive_dropout": 0.14},
    )


def test_a_model_directory_like_one_of_training(save):
    directory = save()
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        ["config.json", "model.safetensors", "curve.jsonl", "meta.json"]
    )
    assert read_json(directory / "config.json")["parameters"] == 20784


def test_half_precision_becomes_single(save, checkpoint):
    lm = model.load(save(state={name: tensor.half() for name, tensor in checkpoint[1].items()}))
    assert {parameter.dtype for parameter in lm.parameters()} == {torch.float32}
    expected = checkpoint[1]["decoder.layers.1.fc1.weight"].half().float()
    torch.testing.assert_close(lm.layers[1].ffn_in.weight.data, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decoder_learned_pos", True),
        ("activation_fn", "gelu"),
        ("layernorm_embedding", True),
        ("no_decoder_final_norm", False),
        ("decoder_normalize_before", False),
        ("character_embeddings", True),
        ("add_bos_token", True),
        ("no_token_positional_embeddings", True),
        ("no_scale_embedding", True),
        ("decoder_layers_to_keep", "0,1"),
        ("decoder_layerdrop", 0.1),
        ("decoder_input_dim", 16),
        ("decoder_output_dim", 16),
        ("adaptive_input", False),
        ("adaptive_softmax_cutoff", "40,121"),
        ("adaptive_softmax_cutoff", None),
        ("adaptive_input_factor", 2),
        ("tie_adaptive_weights", False),
        ("tie_adaptive_proj", False),
        ("decoder_attention_heads", None),
        ("output_dictionary_size", 200),
    ],
)
def test_unsupported_options_are_refused_by_name(save, name, value):
    what = name.replace("adaptive_input", "adaptive_(input|softmax)") if value is False else name
    with pytest.raises(UserError, match=f"checkpoint.pt: .*{what}"):
        save({name: value})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"decoder.layers.0.fc1.weight": torch.zeros(60, 32)}, r"fc1.weight has shape \[60, 32\], .* \[64, 32\]"),
        ({"decoder.layers.1.self_attn.k_proj.bias": torch.zeros(8)}, r"k_proj.bias has shape \[8\], .* \[32\]"),
        ({"decoder.layers.1.fc2.bias": None}, "decoder.layers.1.fc2.bias is missing"),
        ({"decoder.layer_norm.weight": torch.zeros(32)}, "decoder.layer_norm.weight: a weight that"),
        ({"decoder.layers.2.fc1.bias": torch.zeros(64)}, "decoder.layers.2.fc1.bias: a weight that"),
        ({"decoder.adaptive_softmax.tail.0.2.weight": torch.zeros(80, 8)}, "tail.0.2.weight differs from .*1.0.weight"),
    ],
)
def test_weights_that_disagree_are_refused_by_name(save, state, message):
    with pytest.raises(UserError, match=message):
        save(state=state)


def test_another_dictionary_is_refused(save, tmp_path):
    (tmp_path / "dict.txt").write_text("".join((RUN / "dict.txt").read_text().splitlines(keepends=True)[:-8]))
    with pytest.raises(UserError, match=r"embeddings.2.0.weight has shape \[184, 2\], .* dictionary say \[176, 2\]"):
        save(dictionary=tmp_path / "dict.txt")


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_never_run(save, tmp_path, zipped):
    with pytest.raises(UserError, match=r"not a published checkpoint .it asks for .*which is not run"):
        save(extra=Trap(tmp_path / "run"), _use_new_zipfile_serialization=zipped)
    assert not (tmp_path / "run").exists()


def test_training_meters_of_older_checkpoints_are_passed_over(save, monkeypatch):
    meters = ModuleType("fairseq.meters")
    meters.AverageMeter = type("AverageMeter", (), {"__module__": "fairseq.meters"})
    monkeypatch.setitem(sys.modules, "fairseq", ModuleType("fairseq"))
    monkeypatch.setitem(sys.modules, "fairseq.meters", meters)
    meter = meters.AverageMeter()
    meter.sum = 3.0
    save(extra={"train_meters": {"loss": meter}}, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint.pt: not a"):
        fairseq.load_checkpoint(tmp_path / "checkpoint.pt")


@pytest.fixture
def raw(tmp_path):
    """Write a raw pair of N entries and import it; the shard directory."""

    def imported(keys=np.float32, values=np.int64, words=None, **changes):
        vectors = np.arange(N * D).reshape(N, D).astype(keys)
        vectors.tofile(tmp_path / "dstore_keys.npy")
        np.asarray(words if words is not None else range(N)).astype(values).tofile(tmp_path / "dstore_vals.npy")
        facts = {"size": N, "dim": D, "vocab_size": 100, "dtype": np.dtype(keys).name} | changes
        paths = tmp_path / "dstore_keys.npy", tmp_path / "dstore_vals.npy"
        import_datastore.main(ImportDatastoreConfig(*paths, out=tmp_path / "keys", **facts))
        return tmp_path / "keys"

    return imported


@pytest.mark.parametrize("keys", [np.float32, np.float16])
@pytest.mark.parametrize("values", [np.int64, np.int32, np.int16])
def test_a_published_datastore_becomes_a_shard(raw, monkeypatch, keys, values):
    monkeypatch.setattr(import_datastore, "CHUNK", 3 * D)  # four blocks
    asked = []
    monkeypatch.setattr(import_datastore.files, "check_room", lambda out, needed: asked.append(needed))
    directory = raw(keys, values, first=1536)
    assert asked[0] == sum(np.load(path).nbytes for path in directory.glob("*.npy"))
    stored = {name: np.load(directory / f"{name}.npy") for name in ("keys", "values", "ids")}
    assert [array.dtype for array in stored.values()] == [np.float16, np.uint32, np.int64]
    np.testing.assert_array_equal(stored["keys"], np.arange(N * D).reshape(N, D))
    np.testing.assert_array_equal(stored["values"], range(N))
    np.testing.assert_array_equal(stored["ids"], range(1536, 1536 + N))
    assert read_json(directory / "meta.json")["entries"] == N


@pytest.mark.parametrize("looked_at", [1, 3, 4096])
def test_zeros_at_the_end_are_left_out_unless_they_are_asked_for(tmp_path, monkeypatch, caplog, looked_at):
    """A zero key with a value, a key with value 0, and zeros in the middle are entries."""
    monkeypatch.setattr(import_datastore, "ZEROS", looked_at)
    keys, values = np.zeros((9, 2), np.float16), np.zeros(9, np.int64)
    keys[0], values[2], keys[5] = 1, 7, (0, 3)  # row 1, 3 and 4 are zero, and the last three
    keys.tofile(tmp_path / "k")
    values.tofile(tmp_path / "v")
    given = (tmp_path / "k", tmp_path / "v", 9, 2, 40)
    with caplog.at_level("INFO", "knnlm"):
        import_datastore.main(ImportDatastoreConfig(*given, tmp_path / "some", first=3))
    assert "the last 3 entries are all zero and are left out" in caplog.text
    import_datastore.main(ImportDatastoreConfig(*given, tmp_path / "all", keep_zeros=True))
    for name, count in (("some", 6), ("all", 9)):
        np.testing.assert_array_equal(np.load(tmp_path / name / "keys.npy"), keys[:count])
        np.testing.assert_array_equal(np.load(tmp_path / name / "values.npy"), values[:count])
        assert read_json(tmp_path / name / "meta.json")["entries"] == count
    assert np.load(tmp_path / "some/ids.npy").tolist() == [3, 4, 5, 6, 7, 8]
    np.zeros(18, np.float16).tofile(tmp_path / "k")
    np.zeros(9, np.int64).tofile(tmp_path / "v")
    with pytest.raises(UserError, match="found zeros only, expected keys"):
        import_datastore.main(ImportDatastoreConfig(*given, tmp_path / "none"))


def test_16_bit_values_hold_65536_words_and_no_more(raw):
    words = [0, 1, 32767, 32768, 65535, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(np.load(raw(values=np.int16, words=words, vocab_size=65536) / "values.npy"), words)
    with pytest.raises(UserError, match=r"dstore_vals.npy: 16-bit values cannot tell 65,537 words apart"):
        raw(values=np.int16, vocab_size=65537)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 9}, "dstore_keys.npy: found 160 bytes, expected 144: 9 keys of 4 float32"),
        ({"dim": 5}, "dstore_keys.npy: found 160 bytes, expected 200: 10 keys of 5 float32"),
        ({"dtype": "float16"}, "dstore_keys.npy: found 160 bytes, expected 80: 10 keys of 4 float16"),
        ({"values": np.int8}, r"dstore_vals.npy: found 10 bytes, expected 80 \(64-bit\) or .*20 \(16-bit\): 10 values"),
        ({"size": 0}, "--size: found 0, expected at least 1"),
        ({"size": -10}, "--size: found -10, expected at least 1"),
        ({"dim": 0}, "--dim: found 0, expected at least 1"),
        ({"vocab_size": 0}, "--vocab-size: found 0, expected at least 1"),
        ({"size": 10**30}, "dstore_keys.npy: found 160 bytes, expected 16,000,000"),
        ({"words": [*range(9), 100]}, "dstore_vals.npy: value 100 is outside the vocabulary's 100 words"),
        ({"words": [*range(9), -1]}, "dstore_vals.npy: value -1 is outside the vocabulary's 100 words"),
    ],
)
def test_a_datastore_that_disagrees_is_refused_by_name(raw, changes, message):
    with pytest.raises(UserError, match=message):
        raw(**changes)
