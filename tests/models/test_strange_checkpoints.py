"""Checkpoints of strangers: each that is damaged or hostile is refused in one line, quickly and with little memory."""

import argparse
import collections
import json
import logging
import re
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from knnlm.artifacts import cli
from knnlm.artifacts.files import read_json
from knnlm.models import fairseq, fairseq_file, import_fairseq, model
from knnlm.models.import_fairseq import ImportFairseqConfig

RUN = Path(__file__).parents[1] / "data/oracles/fairseq_run"
W, SHAPE = "decoder.layers.1.fc1.weight", (64, 32)
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def published():
    """Arguments and weights of the reference run."""
    return fairseq.load_checkpoint(RUN / "checkpoint_best.pt")


def imported(checkpoint, out, *options, dictionary=RUN / "dict.txt"):
    """Run the command as a user does."""
    named = {"checkpoint": checkpoint, "dictionary": dictionary, "out": out / "model"}
    arguments = [f"--{name}={value}" for name, value in named.items()]
    cli.run(import_fairseq.main, ImportFairseqConfig, "import_fairseq", [*arguments, *options])
    return out / "model"


def refused(checkpoint, out, *options, **files):
    """The one line with which the command ends; exit code 1 follows from its being text."""
    with pytest.raises(SystemExit) as end:
        imported(checkpoint, out, *options, **files)
    line = end.value.code
    assert isinstance(line, str) and line.startswith("error: ") and "\n" not in line and len(line) < 600, line
    assert not (out / "model").exists()
    return line


@pytest.fixture
def save(tmp_path, published):
    """Write a checkpoint that differs from the reference in arguments, weights or top-level entries; its path."""

    def saved(arguments=(), weights=(), rest=(), **how):
        args = argparse.Namespace(**(published[0] | dict(arguments)))
        content = {"args": args, "model": published[1] | dict(weights)} | dict(rest)
        torch.save(content, tmp_path / "checkpoint.pt", **how)
        return tmp_path / "checkpoint.pt"

    return saved


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, content, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


# Damage


@pytest.mark.parametrize("of", ["largest", "smallest", "pickle"])
def test_flipped_bytes_in_a_zip_archive_are_noticed(tmp_path, of):
    whole = bytearray((RUN / "checkpoint_best.pt").read_bytes())
    sizes = {name: len(data) for name, data in members(RUN / "checkpoint_best.pt").items() if "/data/" in name}
    name = {"largest": max, "smallest": min}[of](sizes, key=sizes.get) if of != "pickle" else "archive/data.pkl"
    with zipfile.ZipFile(RUN / "checkpoint_best.pt") as archive, archive.open(name) as opened:
        begin = opened._orig_compress_start
    data = members(RUN / "checkpoint_best.pt")[name]
    at = begin + (data.index(b"decoder_layers") + 2 if of == "pickle" else 0)
    for position in range(at, at + min(64, len(data)), 3):
        whole[position] ^= 1
    (tmp_path / "checkpoint.pt").write_bytes(whole)
    line = refused(tmp_path / "checkpoint.pt", tmp_path)
    assert re.search(rf"checkpoint.pt: {name} does not have the checksum .*fetch", line)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_short_is_refused(save, tmp_path, kept, zipped):
    path = save(_use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert re.search("checkpoint.pt: not a whole", refused(path, tmp_path))


@pytest.mark.parametrize("change", ["cut by a byte", "a byte more", "another checkpoint after it", "another size"])
def test_the_sizes_of_a_file_without_checksums_are_those_of_its_weights(save, tmp_path, published, change):
    """torch before 1.6 wrote each weight's number of values, then the values."""
    path = save(_use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    weights = fairseq.load_checkpoint(path)[1]
    assert all(torch.equal(weights[name], weight) for name, weight in published[1].items())
    count = (64).to_bytes(8, "little")  # a bias of 64 numbers
    assert whole.count(count) > 1
    path.write_bytes(
        {
            "cut by a byte": whole[:-1],
            "a byte more": whole + b"0",
            "another checkpoint after it": whole + whole,
            "another size": (63).to_bytes(8, "little").join(whole.rsplit(count, 1)),
        }[change]
    )
    line = refused(path, tmp_path)
    more = {"a byte more": 1, "another checkpoint after it": len(whole)}.get(change)
    assert (f"found {more:,} bytes after its last weight" if more else "not a whole published checkpoint") in line


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.full(SHAPE, NAN), f"{W}: found nan"),
        (torch.zeros(SHAPE).index_fill(0, torch.tensor(63), -INF), f"{W}: found -inf"),
        (torch.zeros(SHAPE).index_fill(1, torch.tensor(31), INF), f"{W}: found inf"),
        (torch.full(SHAPE, 1e300, dtype=torch.float64), f"{W}: found 1e\\+300"),
        (torch.zeros(SHAPE, dtype=torch.int32), f"{W}: found int32, expected .*float16"),
        (torch.zeros(SHAPE, dtype=torch.bool), f"{W}: found bool"),
        (torch.zeros(SHAPE, dtype=torch.complex64), f"{W}: found complex64"),
        (torch.zeros(SHAPE).to(torch.float8_e5m2), f"{W}: found float8_e5m2"),
        (torch.zeros(1).expand(SHAPE), f"{W}: found 2,048 numbers in memory of 1"),
        (torch.zeros(1).expand(10**9, 10**9), f"{W}: found 1,000,000,.* in memory of 1"),
        (torch.zeros(70).as_strided(SHAPE, (1, 0)), f"{W}: found 2,048 numbers in memory of 70"),
        (torch.zeros(SHAPE).to_sparse(), f"{W}: found a sparse_coo tensor"),
        (torch.zeros(SHAPE, device="meta"), f"{W}: found a tensor without content"),
        ("zeros", f"{W}: found 'zeros', expected a tensor"),
        (None, f"{W}: found None, expected a tensor"),
        ([0.0] * 64, rf"{W}: found \[0.0, 0.0, .*expected a tensor"),
        (torch.zeros(SHAPE)[..., None], rf"{W} has shape \[64, 32, 1\]"),
        (torch.tensor(0.0), rf"{W} has shape \[\]"),
    ],
)
def test_weights_that_are_no_weights_are_refused_by_name(save, tmp_path, weight, message):
    assert re.search(f"checkpoint.pt: {message}", refused(save(weights={W: weight}), tmp_path))


def test_a_copy_of_a_tied_weight_is_looked_at_too(save, tmp_path):
    copy = "decoder.adaptive_softmax.tail.0.2.weight"
    assert f"{copy}: found 'text', expected a tensor" in refused(save(weights={copy: "text"}), tmp_path)


def test_weights_in_one_storage_are_taken(save, tmp_path, published):
    """As where a checkpoint was made from one flat vector."""
    whole = torch.cat([torch.full((5,), NAN), published[1][W].flatten()])
    lm = model.load(imported(save(weights={W: whole[5:].view(SHAPE)}), tmp_path))
    torch.testing.assert_close(lm.layers[1].ffn_in.weight.data, published[1][W], rtol=0, atol=0)


def test_weights_that_are_parameters_are_taken(save, tmp_path, published):
    lm = model.load(imported(save(weights={W: torch.nn.Parameter(published[1][W])}), tmp_path))
    torch.testing.assert_close(lm.layers[1].ffn_in.weight.data, published[1][W], rtol=0, atol=0)


def test_weights_that_are_one_and_the_same_memory_are_refused(save, tmp_path, published):
    other = W.replace("layers.1", "layers.0")
    line = refused(save(weights={W: published[1][other]}), tmp_path)
    assert f"checkpoint.pt: {W}: found the numbers of another weight" in line


def test_a_name_of_many_lines_stays_in_one(save, tmp_path):
    assert r"'a\nb" in refused(save(weights={"a\nb": torch.zeros(1)}), tmp_path)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout": 1.0}, "dropout: found 1.0"),
        ({"dropout": -0.1}, "dropout: found -0.1"),
        ({"dropout": NAN}, "dropout: found nan"),
        ({"dropout": "0.1"}, "dropout: found '0.1'"),
        ({"dropout": True}, "dropout: found True"),
        ({"attention_dropout": 2}, "attention_dropout: found 2"),
        ({"activation_dropout": "none"}, "activation_dropout: found 'none'"),
        ({"activation_dropout": ""}, "activation_dropout: found ''"),
        ({"activation_dropout": None, "relu_dropout": 3.0}, "relu_dropout: found 3.0"),
        ({"adaptive_softmax_dropout": INF}, "adaptive_softmax_dropout: found inf"),
        ({"decoder_layers": 10**7}, "decoder_layers: found 10,000,000, expected 2, which"),
        ({"decoder_layers": 10**600}, "decoder_layers: found 1000.*, expected at most"),
        ({"decoder_layers": 1}, "decoder_layers: found 1, expected 2, which"),
        ({"decoder_layers": 0}, "decoder_layers: found 0"),
        ({"decoder_layers": "three"}, "decoder_layers: found 'three'"),
        ({"decoder_layers": 3.0}, "decoder_layers: found 3.0"),
        ({"decoder_layers": True}, "decoder_layers: found True"),
        ({"decoder_layers": [2]}, r"decoder_layers: found \[2\]"),
        ({"decoder_layers": torch.ones(3)}, "decoder_layers: found a Tensor"),
        ({"decoder_attention_heads": 0}, "decoder_attention_heads: found 0"),
        ({"decoder_attention_heads": -4}, "decoder_attention_heads: found -4"),
        ({"decoder_attention_heads": 64}, "decoder_attention_heads: found 64"),
        ({"decoder_attention_heads": 4.0}, "decoder_attention_heads: found 4.0"),
        (
            {"decoder_embed_dim": 10**9, "decoder_input_dim": 10**9, "decoder_output_dim": 10**9},
            "decoder_embed_dim: .*",
        ),
        (
            {"decoder_embed_dim": 64, "decoder_input_dim": 64, "decoder_output_dim": 64},
            "decoder_embed_dim: found 64.*32",
        ),
        ({"decoder_embed_dim": torch.ones(2)}, "decoder_embed_dim: found a Tensor"),
        ({"decoder_ffn_embed_dim": 10**30}, "decoder_ffn_embed_dim: found 1000.*64"),
        ({"adaptive_input_factor": 0, "adaptive_softmax_factor": 0}, "adaptive_input_factor: found 0"),
        ({"adaptive_input_factor": 10**600, "adaptive_softmax_factor": 10**600}, "adaptive_input_factor: found 1000"),
        (
            {"adaptive_input_factor": 2.0, "adaptive_softmax_factor": 2.0},
            "decoder.embed_tokens.embeddings.1.0.weight has shape",
        ),
        ({"adaptive_input_cutoff": "4" * 5000, "adaptive_softmax_cutoff": "4" * 5000}, "adaptive_input_cutoff: found"),
        (
            {"adaptive_input_cutoff": "forty", "adaptive_softmax_cutoff": "forty"},
            "adaptive_input_cutoff: found 'forty'",
        ),
        (
            {"adaptive_input_cutoff": "40,1e2", "adaptive_softmax_cutoff": "40,1e2"},
            "adaptive_input_cutoff: found '40,1",
        ),
        (
            {"adaptive_input_cutoff": "40", "adaptive_softmax_cutoff": "40"},
            "adaptive_input_cutoff: found 1 of them, expected 2, which",
        ),
        ({"adaptive_input_cutoff": "40,400", "adaptive_softmax_cutoff": "40,400"}, "adaptive_input_cutoff: found"),
        (
            dict.fromkeys(("adaptive_input_cutoff", "adaptive_softmax_cutoff"), ",".join(map(str, range(2, 9000, 2)))),
            "adaptive_input_factor: found 4: dim 32 divided by it 4499 times",
        ),
        ({"activation_fn": torch.ones(2)}, "activation_fn: found a Tensor"),
        ({"adaptive_input": "False"}, "adaptive_input: found 'False'"),
        ({"tie_adaptive_proj": [1]}, r"tie_adaptive_proj: found \[1\]"),
        ({"share_decoder_input_output_embed": "no"}, "share_decoder_input_output_embed: found 'no'"),
    ],
)
def test_an_impossible_argument_is_refused_by_its_name_in_the_file(save, tmp_path, arguments, message):
    assert re.search(f"checkpoint.pt: {message}", refused(save(arguments), tmp_path))


def test_an_argument_that_prints_without_end_is_cut(save, tmp_path):
    laughs = "ha"
    for _ in range(60):
        laughs = [laughs, laughs]
    assert "decoder_layers: found [[" in refused(save({"decoder_layers": laughs}), tmp_path)


# Files that hold something else


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "found a Tensor"),
        ([1, 2], "found [1, 2]"),
        ({}, "found no 'model'"),
        ({"args": argparse.Namespace()}, "found no 'model'"),
        ({"model": {W: torch.zeros(1)}}, "found neither 'args' nor 'cfg'"),
        ({"model": {W: torch.zeros(1)}, "args": None}, "found neither 'args' nor 'cfg'"),
        ({"model": {W: torch.zeros(1)}, "args": "text"}, "args: found 'text'"),
        ({"model": None, "args": argparse.Namespace()}, "model: found None"),
        ({"model": {}, "args": argparse.Namespace()}, "model: found {}"),
        ({"model": torch.zeros(2), "args": argparse.Namespace()}, "model: found a Tensor"),
        ({"model": {1: torch.zeros(1)}, "args": argparse.Namespace()}, "model: found the key 1"),
        ({W: torch.zeros(1)}, "found no 'model'"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "checkpoint.pt")
    assert f"checkpoint.pt: {message}" in refused(tmp_path / "checkpoint.pt", tmp_path)


@pytest.mark.parametrize(
    "content", [b"\x80\x02.", b"\x80\x02K\x01.", b"(((((((", b"\x80\x02h\x07.", bytes(range(256)) * 9]
)
def test_bytes_that_are_no_checkpoint_are_refused(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    assert "checkpoint.pt: not a" in refused(tmp_path / "checkpoint.pt", tmp_path)
    whole = members(RUN / "checkpoint_best.pt")
    write(tmp_path / "checkpoint.pt", whole | {"archive/data.pkl": content})
    assert re.search("checkpoint.pt: (not a|found 1, expected)", refused(tmp_path / "checkpoint.pt", tmp_path))


@pytest.mark.parametrize("name", ["missing.pt", "."])
def test_no_file_is_refused(tmp_path, name):
    assert re.search("no such file|is a folder", refused(tmp_path / name, tmp_path))


# Archives that unpack to more than they hold


def test_a_pickle_that_inflates_is_refused_before_it_is_read(tmp_path):
    whole = members(RUN / "checkpoint_best.pt") | {"archive/data.pkl": b"\x80\x02" + bytes([ord("}")]) * (32 << 20)}
    path = write(tmp_path / "checkpoint.pt", whole, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert re.search(r"checkpoint.pt: archive/data.pkl has 33,554,434 bytes, .* at most \d", refused(path, tmp_path))


@pytest.mark.parametrize("opcodes", [b"}" * (5 << 20), b"X" + (5 << 20).to_bytes(4, "little") + b"a" * (5 << 20)])
def test_an_older_file_with_more_pickle_than_its_tensors_explain_is_refused(tmp_path, opcodes, monkeypatch):
    monkeypatch.setattr(fairseq_file, "PICKLE", 1 << 16)
    (tmp_path / "checkpoint.pt").write_bytes(b"\x80\x02" + opcodes)
    assert "its pickle has more bytes than the 65,536" in refused(tmp_path / "checkpoint.pt", tmp_path)


def test_weights_that_inflate_are_refused_before_they_are_read(tmp_path):
    whole = members(RUN / "checkpoint_best.pt") | {"archive/data/900": bytes(32 << 20)}
    path = write(tmp_path / "checkpoint.pt", whole, zipfile.ZIP_DEFLATED)
    assert re.search(r"checkpoint.pt: its members unpack to 33,\d+,\d+ bytes", refused(path, tmp_path))


def test_a_member_twice_is_refused(tmp_path):
    path = write(tmp_path / "checkpoint.pt", members(RUN / "checkpoint_best.pt"))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert "archive/data.pkl occurs twice" in refused(path, tmp_path)


def test_an_archive_packed_again_is_taken(tmp_path):
    path = write(tmp_path / "checkpoint.pt", members(RUN / "checkpoint_best.pt"), zipfile.ZIP_DEFLATED)
    assert read_json(imported(path, tmp_path) / "config.json")["parameters"] == 20784


def test_a_storage_that_claims_more_than_its_member_is_refused(tmp_path):
    whole = members(RUN / "checkpoint_best.pt")
    path = write(tmp_path / "checkpoint.pt", whole | {"archive/data/2": whole["archive/data/2"][:8]})
    assert "checkpoint.pt: not a whole" in refused(path, tmp_path)


class Big:
    def __reduce__(self):
        return bytearray, (1 << 40,)


@pytest.mark.parametrize("zipped", [True, False])
def test_memory_that_a_pickle_asks_for_is_not_given(save, tmp_path, zipped):
    path = save(rest={"extra_state": Big()}, _use_new_zipfile_serialization=zipped)
    assert "it asks for bytearray" in refused(path, tmp_path)


# Dictionaries


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wörd 3\n".encode("latin-1"), "dict.txt: not UTF-8"),
        (b"word \xc2\xb2\n", "dict.txt: not a dictionary"),
        (b"word " + b"9" * 5000 + b"\n", "dict.txt: not a dictionary"),
        (b"", "dict.txt: not a dictionary"),
        (b"a 1\n\x00\xff", "dict.txt: not UTF-8"),
        (b"a 1\na 2\n", "dict.txt: the word 'a' occurs twice"),
    ],
)
def test_a_dictionary_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / "dict.txt").write_bytes(content)
    assert message in refused(RUN / "checkpoint_best.pt", tmp_path, dictionary=tmp_path / "dict.txt")


# Newer layouts, and what comes with the weights


@pytest.mark.parametrize("kind", [dict, lambda values: argparse.Namespace(**values)])
def test_the_newer_layout_is_read_where_it_is_plain_data(save, tmp_path, published, kind):
    cfg = {"_name": None, "model": kind(published[0] | {"_name": "transformer_lm"}), "task": {"data": "bin"}}
    path = save(rest={"args": None, "cfg": cfg})
    found = imported(path, tmp_path) / "model.safetensors"
    again = imported(RUN / "checkpoint_best.pt", tmp_path / "older") / "model.safetensors"
    assert found.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("tied", [False, True])
def test_a_plain_softmax_of_the_newer_layout(tmp_path, tied):
    stored = np.load(RUN.parent / f"lm_{'tied' if tied else 'full'}_softmax.npz")
    weights = {name[6:]: torch.from_numpy(stored[name]) for name in stored.files if name.startswith("state/")}
    own = weights["decoder.embed_tokens.weight"] if tied else weights.pop("decoder.embed_out")
    cfg = {"model": argparse.Namespace(**json.loads(str(stored["args_json"])))}
    content = {"cfg": cfg, "model": weights | {"decoder.output_projection.weight": own}}
    torch.save(content, tmp_path / "checkpoint.pt")
    (tmp_path / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(400)))
    lm = model.load(imported(tmp_path / "checkpoint.pt", tmp_path, dictionary=tmp_path / "dict.txt"))
    targets = torch.from_numpy(stored["tgt"])
    found = lm.target_logprob(lm(torch.from_numpy(stored["src"]))[targets != 1], targets[targets != 1])
    np.testing.assert_allclose(found.detach(), stored["tgt_lprobs"][stored["tgt"] != 1], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("cfg", ["text", {}, {"model": None}, {"model": "transformer_lm"}])
def test_a_newer_layout_without_its_model_is_refused(save, tmp_path, cfg):
    line = refused(save(rest={"args": None, "cfg": cfg}), tmp_path)
    assert re.search(r"cfg: found .*expected .*'model'.*newer fairseq", line)


def test_a_configuration_of_omegaconf_says_what_to_do(save, tmp_path, monkeypatch):
    omegaconf = ModuleType("omegaconf.dictconfig")
    omegaconf.DictConfig = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})
    monkeypatch.setitem(sys.modules, "omegaconf", ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", omegaconf)
    line = refused(save(rest={"args": None, "cfg": omegaconf.DictConfig()}), tmp_path)
    assert re.search("newer fairseq, .*omegaconf.*OmegaConf.to_container", line)


@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_content_beside_the_weights_is_passed_over(save, tmp_path, zipped):
    extra = {"best": np.float64(3.5), "epoch": np.int64(2), "losses": np.arange(3.0), "type": np.dtype("float32")}
    extra |= {"flag": np.bool_(True), "seen": {1, 2}, "order": collections.OrderedDict(a=b"x")}
    path = save(rest={"extra_state": extra}, _use_new_zipfile_serialization=zipped)
    assert read_json(imported(path, tmp_path) / "config.json")["parameters"] == 20784


def test_names_of_older_numpy_are_passed_over_too(tmp_path, save):
    whole = members(save(rest={"extra_state": {"best": np.float64(3.5)}}))
    assert b"numpy._core" in whole["checkpoint/data.pkl"]
    whole["checkpoint/data.pkl"] = whole["checkpoint/data.pkl"].replace(b"numpy._core", b"numpy.core")
    imported(write(tmp_path / "checkpoint.pt", whole), tmp_path)


def test_a_numpy_number_in_place_of_an_argument_is_refused(save, tmp_path):
    assert "decoder_layers: found" in refused(save({"decoder_layers": np.int64(2)}), tmp_path)


# Text


def shuffled(path):
    lines = (RUN / "dict.txt").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[i] for i in np.random.default_rng(1).permutation(len(lines))))
    return path


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_dictionary_in_another_order_is_seen_by_the_text(tmp_path, caplog):
    caplog.set_level(logging.INFO, "knnlm")
    text = f"--text={RUN / 'valid.txt'}"
    imported(RUN / "checkpoint_best.pt", tmp_path / "right", text)
    assert warnings_of(caplog) == []
    assert re.search(r"valid.txt: perplexity 22\.\d+ over \d+ tokens, a unigram model.s 7\d\.", caplog.text)
    imported(RUN / "checkpoint_best.pt", tmp_path / "wrong", text, dictionary=shuffled(tmp_path / "dict.txt"))
    (line,) = warnings_of(caplog)
    assert re.search(r"valid.txt: perplexity .* is worse than .* unigram .*: is .*dict.txt the dictionary", line)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "text.txt: not UTF-8"), (b"", "text.txt: "), (None, "text.txt: no such file")],
)
def test_text_that_cannot_be_read_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    assert message in refused(RUN / "checkpoint_best.pt", tmp_path, f"--text={tmp_path / 'text.txt'}")
