"""Files of the published code: read its checkpoints and its memory-mapped datastores.

Names and defaults are those of the fairseq version that kNN-LM was published with (github.com/urvashik/knnlm).
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from knnlm.artifacts.files import UserError
from knnlm.models.model import LanguageModel
from knnlm.settings import ModelConfig, explain

FIXED = {  # options of which the model implements this value only; a file without one means it too
    "activation_fn": "relu",
    "add_bos_token": False,
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


class Meter:
    """Takes the place of the training statistics in a checkpoint, which are not used."""


METERS = tuple((Meter, f"fairseq.meters.{name}") for name in ("AverageMeter", "TimeMeter", "StopwatchMeter"))


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments and the weights of a published .pt file, without running code in it.

    Raises UserError for a file that asks for code, or is damaged or no such checkpoint.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *METERS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        return vars(content["args"]), content["model"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"(?:GLOBAL|global) (\S+)", str(error))
        reason = f"it asks for {unsafe[1]}, which is not run" if unsafe else "damaged, or of another fairseq"
        raise UserError(f"{path}: not a published checkpoint ({reason})") from None
    except (RuntimeError, EOFError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a whole published checkpoint with args and model ({reason})") from None


def architecture(arguments: Mapping[str, Any], vocab_size: int) -> ModelConfig:
    """The architecture of a checkpoint; raises UserError naming an argument that the model does not implement."""
    for name, value in FIXED.items():
        if arguments.get(name, value) != value:
            raise UserError(f"{name} is {arguments[name]!r}: only {value!r} is supported")
    dim = _needed(arguments, "decoder_embed_dim")
    for name in ("decoder_input_dim", "decoder_output_dim"):
        if arguments.get(name, dim) != dim:
            raise UserError(f"{name} is {arguments[name]!r}: only decoder_embed_dim's {dim} is supported")
    try:
        return ModelConfig(
            vocab_size=vocab_size,
            layers=_needed(arguments, "decoder_layers"),
            dim=dim,
            ffn_dim=_needed(arguments, "decoder_ffn_embed_dim"),
            heads=_needed(arguments, "decoder_attention_heads"),
            adaptive_cutoffs=_cutoffs(arguments),
            adaptive_factor=arguments.get("adaptive_input_factor", 4),
            tie_embeddings=bool(arguments.get("share_decoder_input_output_embed", False)),
            dropout=_needed(arguments, "dropout"),
            attention_dropout=_needed(arguments, "attention_dropout"),
            activation_dropout=arguments.get("activation_dropout") or arguments.get("relu_dropout") or 0.0,
            adaptive_dropout=arguments.get("adaptive_softmax_dropout", 0.0),
        )
    except ValidationError as error:
        raise UserError(str(explain(error, ModelConfig))) from None


def names(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """{our name of a weight: the published names of the matrices that are stacked in it}."""
    found: dict[str, tuple[str, ...]] = {}
    if config.adaptive_cutoffs:
        for band in range(len(config.adaptive_cutoffs) + 1):
            found[f"embedding.words.{band}.weight"] = (f"decoder.embed_tokens.embeddings.{band}.0.weight",)
            found[f"embedding.projections.{band}.weight"] = (f"decoder.embed_tokens.embeddings.{band}.1.weight",)
        found["softmax.tails.weight"] = ("decoder.adaptive_softmax.head.class_proj.weight",)
    else:
        found["embedding.weight"] = ("decoder.embed_tokens.weight",)
        if not config.tie_embeddings:
            found["softmax.weight"] = ("decoder.embed_out",)
    for layer in range(config.layers):
        for ours, theirs in LAYER.items():
            for kind in ("weight", "bias"):
                found[f"layers.{layer}.{ours}.{kind}"] = tuple(f"decoder.layers.{layer}.{x}.{kind}" for x in theirs)
    return found


def copies(config: ModelConfig) -> dict[str, str]:
    """{published name under which a tied weight appears a second time: the name of its first appearance}."""
    if not config.adaptive_cutoffs:
        return {}
    found = {"decoder.adaptive_softmax.head.word_proj.weight": "decoder.embed_tokens.embeddings.0.0.weight"}
    for tail in range(len(config.adaptive_cutoffs)):
        found[f"decoder.adaptive_softmax.tail.{tail}.0.weight"] = f"decoder.embed_tokens.embeddings.{tail + 1}.1.weight"
        found[f"decoder.adaptive_softmax.tail.{tail}.2.weight"] = f"decoder.embed_tokens.embeddings.{tail + 1}.0.weight"
    return found


def convert(state: Mapping[str, Tensor], model: LanguageModel) -> dict[str, Tensor]:
    """Published weights (or gradients) by the model's names, float32; raises UserError naming one that does not fit."""
    expected = model.state_dict()
    converted: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, parts in names(model.config).items():
        shape = [expected[name].shape[0] // len(parts), *expected[name].shape[1:]]
        for part in parts:
            if part not in state:
                raise UserError(f"{part} is missing")
            if list(state[part].shape) != shape:
                raise UserError(f"{part} has shape {list(state[part].shape)}, the arguments and dictionary say {shape}")
        converted[name] = torch.cat([state[part].float() for part in parts])
        used.update(parts)
    for copy, original in copies(model.config).items():
        if copy in state and not torch.equal(state[copy], state[original]):
            raise UserError(f"{copy} differs from {original}: only tied adaptive weights are supported")
        used.add(copy)
    for name in sorted(set(state) - used):
        if name.rpartition(".")[2] not in WEIGHTLESS:
            raise UserError(f"{name}: a weight that the model has no place for")
    return converted


def open_datastore(
    keys: Path, values: Path, size: int, dim: int, dtype: str, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """A published pair of raw memory maps: keys [N, D] float16 or float32, values [N] integers.

    The values' type follows from the size of their file. Raises UserError where a file does not have the size that
    N, D and a type give, and for 16-bit values with a vocabulary of more than 65,536 words.
    """
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


def _needed(arguments: Mapping[str, Any], name: str) -> Any:
    if arguments.get(name) is None:
        raise UserError(f"{name} is not among the checkpoint's arguments")
    return arguments[name]


def _cutoffs(arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """The cutoffs of the adaptive input and softmax, which must be the same; () for a plain embedding and softmax."""
    cutoffs, factors = (
        [arguments.get(f"adaptive_{part}_{what}") for part in ("input", "softmax")] for what in ("cutoff", "factor")
    )
    inputs, softmax = (tuple(int(number) for number in re.findall(r"\d+", str(text or ""))) for text in cutoffs)
    if not arguments.get("adaptive_input"):
        inputs = ()
    if inputs != softmax:
        raise UserError(f"adaptive_input_cutoff {inputs} and adaptive_softmax_cutoff {softmax}: must be equal")
    if inputs and factors[0] != factors[1]:
        raise UserError(f"adaptive_input_factor {factors[0]} and adaptive_softmax_factor {factors[1]}: must be equal")
    for name in ("tie_adaptive_weights", "tie_adaptive_proj"):
        if inputs and not arguments.get(name):
            raise UserError(f"{name} is {arguments.get(name)!r}: only True is supported")
    return inputs


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
