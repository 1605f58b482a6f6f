"""Files of the published code: read its checkpoints and its memory-mapped datastores.

Names and defaults are those of the fairseq version that kNN-LM was published with (github.com/urvashik/knnlm).
"""

import argparse
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from knnlm.artifacts.files import UserError
from knnlm.models import fairseq_file
from knnlm.models.fairseq_file import named, shown
from knnlm.models.model import LanguageModel
from knnlm.settings import ModelConfig, explain

FIXED = {  # options of which the model implements this value only; a file without one means it too
    "activation_fn": "relu",
    "add_bos_token": False,
    "base_layers": 0,
    "character_embeddings": False,
    "decoder_layerdrop": 0,
    "decoder_layers_to_keep": None,
    "decoder_learned_pos": False,
    "decoder_normalize_before": True,
    "layernorm_embedding": False,
    "no_decoder_final_norm": True,
    "no_scale_embedding": False,
    "no_token_positional_embeddings": False,
    "output_dictionary_size": -1,
    "scale_attn": False,
    "scale_fc": False,
    "scale_heads": False,
    "scale_resids": False,
}
LAYER = {  # our name of a layer's weight: the published names of the matrices stacked in it
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.out_proj",),
    "attention_norm": ("self_attn_layer_norm",),
    "ffn_norm": ("final_layer_norm",),
    "ffn_in": ("fc1",),
    "ffn_out": ("fc2",),
}
WEIGHTLESS = ("version", "_float_tensor")  # buffers without content
VALUE_TYPES = {8: "int64", 4: "int32", 2: "uint16"}  # by bytes; read as unsigned, 16 bits hold 65,536 words
ARGUMENTS = {  # our name of a setting: the published argument
    "layers": "decoder_layers",
    "dim": "decoder_embed_dim",
    "ffn_dim": "decoder_ffn_embed_dim",
    "heads": "decoder_attention_heads",
    "adaptive_cutoffs": "adaptive_input_cutoff",
    "adaptive_factor": "adaptive_input_factor",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "adaptive_dropout": "adaptive_softmax_dropout",
}
SWITCHES = ("adaptive_input", "share_decoder_input_output_embed", "tie_adaptive_proj", "tie_adaptive_weights")
OTHERS = ("adaptive_softmax_cutoff", "adaptive_softmax_factor", "decoder_input_dim", "decoder_output_dim")
READ = (*FIXED, *ARGUMENTS.values(), *SWITCHES, *OTHERS, "relu_dropout")
LARGEST = 2**31 - 1  # number among the arguments
NORM, BIAS = "decoder.layers.{}.self_attn_layer_norm.weight", "decoder.layers.0.fc1.bias"  # with the lengths D, ffn_dim
BAND = "decoder.embed_tokens.embeddings.{}.0.weight"
NEWER_OUTPUT, OUTPUT = "decoder.output_projection.weight", "decoder.embed_out"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments and the weights of a published .pt file, without running code in it.

    A newer fairseq's `cfg` is read where it is plain data. Raises UserError for a file that asks for code, or is
    damaged or no such checkpoint. What is in the arguments and weights is checked by `architecture` and `convert`.
    """
    content = fairseq_file.load(path)
    try:
        if not isinstance(content, dict):
            raise UserError(f"found {shown(content)}, expected 'args' and 'model'")
        state = content.get("model", {})
        if "model" not in content:
            raise UserError(f"found no 'model' among {shown(list(content))}, expected 'args' and 'model'")
        if not isinstance(state, dict) or not state:
            raise UserError(f"model: found {shown(state)}, expected weights by name")
        if (other := next((key for key in state if not isinstance(key, str)), None)) is not None:
            raise UserError(f"model: found the key {shown(other)}, expected the name of a weight")
        arguments = _arguments(content)
    except UserError as error:
        raise UserError(f"{path}: {error}: give a checkpoint_best.pt as fairseq saves it") from None
    if NEWER_OUTPUT in state:
        state = {OUTPUT if name == NEWER_OUTPUT else name: weight for name, weight in state.items()}
    return arguments, state


def architecture(arguments: Mapping[str, Any], vocab_size: int) -> ModelConfig:
    """The architecture of a checkpoint.

    Raises UserError naming an argument that is impossible or that the model does not implement.
    """
    arguments = {name: arguments[name] for name in READ if name in arguments}
    for name, found in arguments.items():
        if not isinstance(found, bool | int | float | str | None) or (name in SWITCHES and found not in (None, 0, 1)):
            raise UserError(
                f"{name}: found {shown(found)}, expected {'True or False' if name in SWITCHES else 'a number or text'}"
            )
        if isinstance(found, int) and found > LARGEST:
            raise UserError(f"{name}: found {shown(found)}, expected at most {LARGEST:,}")
    for name, value in FIXED.items():
        if arguments.get(name, value) != value:
            raise UserError(f"{name} is {shown(arguments[name])}: only {value!r} is supported")
    dim = _needed(arguments, "decoder_embed_dim")
    for name in ("decoder_input_dim", "decoder_output_dim"):
        if arguments.get(name, dim) != dim:
            raise UserError(f"{name} is {shown(arguments[name])}: only decoder_embed_dim's {shown(dim)} is supported")
    activation = "activation_dropout" if arguments.get("activation_dropout") not in (None, 0) else "relu_dropout"
    factor = arguments.get("adaptive_input_factor", 4)
    try:
        return ModelConfig(
            vocab_size=vocab_size,
            layers=_needed(arguments, "decoder_layers"),
            dim=dim,
            ffn_dim=_needed(arguments, "decoder_ffn_embed_dim"),
            heads=_needed(arguments, "decoder_attention_heads"),
            adaptive_cutoffs=_cutoffs(arguments),
            adaptive_factor=int(factor) if isinstance(factor, float) and factor.is_integer() else factor,
            tie_embeddings=bool(arguments.get("share_decoder_input_output_embed", False)),
            dropout=_needed(arguments, "dropout"),
            attention_dropout=_needed(arguments, "attention_dropout"),
            activation_dropout=0.0 if arguments.get(activation) is None else arguments[activation],
            adaptive_dropout=arguments.get("adaptive_softmax_dropout", 0.0),
        )
    except ValidationError as error:
        mistake = explain(error, ModelConfig)
        name = (ARGUMENTS | {"activation_dropout": activation}).get(mistake.key.partition("[")[0], mistake.key)
        raise UserError(textwrap.shorten(f"{name}: {mistake.message}", 300, placeholder=" …")) from None


def check_sizes(config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """Compare the sizes of an architecture with the weights, before a model of these sizes is made.

    Raises UserError naming the published argument that differs, or a weight that is none.
    """
    layers = sum(re.fullmatch(NORM.format(r"\d+"), name) is not None for name in state)
    bands = sum(re.fullmatch(BAND.format(r"\d+"), name) is not None for name in state)
    found: dict[str, tuple[int, int]] = {"layers": (config.layers, layers)}
    if config.adaptive_cutoffs:
        found["adaptive_cutoffs"] = len(config.adaptive_cutoffs), bands - 1
    for key, name in (("dim", NORM.format(0)), ("ffn_dim", BIAS)):
        found[key] = getattr(config, key), _numbers(state, name).shape.numel()
    for key, (said, there) in found.items():
        if said != there:
            what = " of them" if key == "adaptive_cutoffs" else ""
            raise UserError(
                f"{ARGUMENTS[key]}: found {said:,}{what}, expected {there:,}, which the file's weights have"
            )


def names(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """{our name of a weight: the published names of the matrices that are stacked in it}."""
    found: dict[str, tuple[str, ...]] = {}
    if config.adaptive_cutoffs:
        for band in range(len(config.adaptive_cutoffs) + 1):
            found[f"embedding.words.{band}.weight"] = (BAND.format(band),)
            found[f"embedding.projections.{band}.weight"] = (f"decoder.embed_tokens.embeddings.{band}.1.weight",)
        found["softmax.tails.weight"] = ("decoder.adaptive_softmax.head.class_proj.weight",)
    else:
        found["embedding.weight"] = ("decoder.embed_tokens.weight",)
        if not config.tie_embeddings:
            found["softmax.weight"] = (OUTPUT,)
    for layer in range(config.layers):
        for ours, theirs in LAYER.items():
            for kind in ("weight", "bias"):
                found[f"layers.{layer}.{ours}.{kind}"] = tuple(f"decoder.layers.{layer}.{x}.{kind}" for x in theirs)
    return found


def copies(config: ModelConfig) -> dict[str, str]:
    """{published name under which a tied weight appears a second time: the name of its first appearance}."""
    if not config.adaptive_cutoffs:
        return {OUTPUT: "decoder.embed_tokens.weight"} if config.tie_embeddings else {}
    found = {"decoder.adaptive_softmax.head.word_proj.weight": BAND.format(0)}
    for tail in range(len(config.adaptive_cutoffs)):
        found[f"decoder.adaptive_softmax.tail.{tail}.0.weight"] = f"decoder.embed_tokens.embeddings.{tail + 1}.1.weight"
        found[f"decoder.adaptive_softmax.tail.{tail}.2.weight"] = BAND.format(tail + 1)
    return found


def convert(state: Mapping[str, Tensor], model: LanguageModel) -> dict[str, Tensor]:
    """Published weights (or gradients) by the model's names, float32; the model's own may be on `meta`.

    Raises UserError naming a weight that does not fit, is no tensor of finite floating-point numbers, or shares its
    memory with another.
    """
    expected = model.state_dict()
    converted: dict[str, Tensor] = {}
    used: set[str] = set()
    memory: dict[int, int] = {}  # bytes of each storage that weights have not used yet, by its address
    for name, parts in names(model.config).items():
        shape = [expected[name].shape[0] // len(parts), *expected[name].shape[1:]]
        for part in parts:
            weight = _numbers(state, part)
            if list(weight.shape) != shape:
                raise UserError(
                    f"{part} has shape {shown(list(weight.shape))}, the arguments and dictionary say {shape}"
                )
            _must_be_finite(part, weight)
            storage = weight.untyped_storage()
            left = memory.get(storage.data_ptr(), storage.nbytes()) - weight.nbytes
            if left < 0:
                raise UserError(f"{part}: found the numbers of another weight, expected its own")
            memory[storage.data_ptr()] = left
        converted[name] = torch.cat([state[part].float() for part in parts])
        used.update(parts)
    for copy, original in copies(model.config).items():
        if copy in state and not torch.equal(_numbers(state, copy), state[original]):
            raise UserError(f"{copy} differs from {original}: only tied adaptive weights are supported")
        used.add(copy)
    for name in sorted(set(state) - used):
        if name.rpartition(".")[2] not in WEIGHTLESS:
            raise UserError(f"{named(name)}: a weight that the model has no place for")
    return converted


def open_datastore(
    keys: Path, values: Path, size: int, dim: int, dtype: str, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """A published pair of raw memory maps: keys [N, D] float16 or float32, values [N] integers.

    The values' type follows from the size of their file. Raises UserError where a file does not have the size that
    N, D and a type give, for numbers below 1, and for 16-bit values with a vocabulary of more than 65,536 words.
    """
    for name, number in (("size", size), ("dim", dim), ("vocab-size", vocab_size)):
        if number < 1:
            raise UserError(f"--{name}: found {number:,}, expected at least 1")
    found, expected = _bytes(keys), size * dim * np.dtype(dtype).itemsize
    if found != expected:
        raise UserError(f"{keys}: found {found:,} bytes, expected {expected:,}: {size:,} keys of {dim} {dtype}")
    found = _bytes(values)
    width = next((width for width in VALUE_TYPES if found == size * width), None)
    if width is None:
        expected_sizes = " or ".join(f"{size * width:,} ({8 * width}-bit)" for width in VALUE_TYPES)
        raise UserError(f"{values}: found {found:,} bytes, expected {expected_sizes}: {size:,} values")
    if width == 2 and vocab_size > 1 << 16:
        raise UserError(
            f"{values}: 16-bit values cannot tell {vocab_size:,} words apart: use a datastore saved with 64-bit values"
        )
    return np.memmap(keys, dtype, "r", shape=(size, dim)), np.memmap(values, VALUE_TYPES[width], "r", shape=(size,))


def _arguments(content: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of training; those of a newer fairseq are in `cfg`, by group."""
    args, cfg = content.get("args"), content.get("cfg")
    if args is None and cfg is None:
        raise UserError("found neither 'args' nor 'cfg' beside 'model', expected the arguments of training")
    if args is not None:
        if not isinstance(args, argparse.Namespace):
            raise UserError(f"args: found {shown(args)}, expected the arguments of training")
        return vars(args)
    groups = {name: cfg.get(name) for name in ("task", "model")} if isinstance(cfg, dict) else {}
    groups = {name: vars(group) if isinstance(group, argparse.Namespace) else group for name, group in groups.items()}
    if not isinstance(groups.get("model"), dict):
        raise UserError(f"cfg: found {shown(cfg)}, expected 'model' and its arguments, the layout of a newer fairseq")
    task = groups["task"] if isinstance(groups["task"], dict) else {}
    return task | groups["model"]


def _needed(arguments: Mapping[str, Any], name: str) -> Any:
    if arguments.get(name) is None:
        raise UserError(f"{name} is not among the checkpoint's arguments")
    return arguments[name]


def _cutoffs(arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """The cutoffs of the adaptive input and softmax, which must be the same; () for a plain embedding and softmax."""
    inputs, softmax = (_rising(arguments, f"adaptive_{part}_cutoff") for part in ("input", "softmax"))
    factors = [arguments.get(f"adaptive_{part}_factor") for part in ("input", "softmax")]
    if not arguments.get("adaptive_input"):
        inputs = ()
    if inputs != softmax:
        raise UserError(
            f"adaptive_input_cutoff {shown(inputs)} and adaptive_softmax_cutoff {shown(softmax)}: must be equal"
        )
    if inputs and factors[0] != factors[1]:
        raise UserError(
            f"adaptive_input_factor {shown(factors[0])} and adaptive_softmax_factor {shown(factors[1])}: must be equal"
        )
    for name in ("tie_adaptive_weights", "tie_adaptive_proj"):
        if inputs and not arguments.get(name):
            raise UserError(f"{name} is {arguments.get(name)!r}: only True is supported")
    return inputs


def _rising(arguments: Mapping[str, Any], name: str) -> tuple[int, ...]:
    text = arguments.get(name)
    if text is None or text == "":
        return ()
    if not isinstance(text, str) or not re.fullmatch(r"[\[(]?\s*\d{1,9}(\s*,\s*\d{1,9})*\s*[\])]?", text):
        raise UserError(f"{name}: found {shown(text)}, expected word ids as '20000,60000'")
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _numbers(state: Mapping[str, Any], name: str) -> Tensor:
    """A weight; raises UserError where it is missing or no tensor that holds each of its numbers."""
    if name not in state:
        raise UserError(f"{name} is missing")
    weight, kind = state[name], ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
    if not isinstance(weight, Tensor):
        raise UserError(f"{name}: found {shown(weight)}, expected a tensor of {kind}")
    if weight.layout is not torch.strided or weight.is_nested:
        layout = "nested" if weight.is_nested else str(weight.layout).removeprefix("torch.")
        raise UserError(f"{name}: found a {layout} tensor, expected a dense one: save it with .to_dense()")
    if weight.is_meta:
        raise UserError(
            f"{name}: found a tensor without content (on `meta`), expected its numbers: save it from a device"
        )
    if weight.dtype not in FLOATS:
        raise UserError(
            f"{name}: found {str(weight.dtype).removeprefix('torch.')}, expected {kind}: save it with .float()"
        )
    if weight.nbytes > (held := weight.untyped_storage().nbytes()):
        raise UserError(
            f"{name}: found {weight.numel():,} numbers in memory of {held // weight.itemsize:,}, expected as many: "
            "save it with .contiguous()"
        )
    return weight


def _must_be_finite(name: str, weight: Tensor) -> None:
    if not all(torch.isfinite(bound.float()) for bound in weight.aminmax()):
        worst = weight[~torch.isfinite(weight.float())][0].item()
        raise UserError(f"{name}: found {worst}, expected finite numbers of float32: damaged, or the training diverged")


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(
            f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}"
        ) from None
