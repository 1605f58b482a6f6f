"""Where each architecture has the six key types: a table of module paths, and paths that a study adds.

Table 5 and Figure 3 of the paper compare six representations of a layer as keys. In a pretrained model each is the
input or the output of one of its modules, named here as `module:input` or `module:output`. Modules are named relative
to a layer in this table, and from the root of the model in a study's own `taps`, where a negative number counts layers
from the end. `output_ln` has no module: it is `output` normalised without a learned scale (`PretrainedLM.forward`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from knnlm.artifacts.files import UserError
from knnlm.settings import SECOND_LAST, TAP

EXAMPLE = 'taps: {ffn_input_ln: "model.layers.-1.mlp:input"}'
OWN = re.compile(TAP)
NORMALISED = "output_ln"  # computed from `output`


class Tap(NamedTuple):
    """One tensor of the forward pass: what a module reads, or what it returns."""

    module: str
    side: str


@dataclass(frozen=True)
class Family:
    """Architectures whose layers have the same modules."""

    model_types: tuple[str, ...]  # as config.json names them
    layers: str  # the list of layers
    norm: str  # after the last layer
    head: str  # from the final norm's output to logits
    taps: Mapping[str, str]  # {key type: module and side}; an empty module is the layer itself


FAMILIES = (
    Family(
        ("gpt2",),
        layers="transformer.h",
        norm="transformer.ln_f",
        head="lm_head",
        taps={
            "mhsa_input": "ln_1:input",
            "mhsa_input_ln": "ln_1:output",
            "ffn_input": "ln_2:input",
            "ffn_input_ln": "ln_2:output",
            "output": ":output",
        },
    ),
    Family(
        ("llama", "mistral", "qwen2", "qwen3", "smollm3"),  # SmolLM and SmolLM2 are llama
        layers="model.layers",
        norm="model.norm",
        head="lm_head",
        taps={
            "mhsa_input": "input_layernorm:input",
            "mhsa_input_ln": "input_layernorm:output",
            "ffn_input": "post_attention_layernorm:input",
            "ffn_input_ln": "post_attention_layernorm:output",
            "output": ":output",
        },
    ),
    Family(
        ("gpt_neox",),  # Pythia. With use_parallel_residual, ffn_input is the same tensor as mhsa_input (`notes`)
        layers="gpt_neox.layers",
        norm="gpt_neox.final_layer_norm",
        head="embed_out",
        taps={
            "mhsa_input": "input_layernorm:input",
            "mhsa_input_ln": "input_layernorm:output",
            "ffn_input": "post_attention_layernorm:input",
            "ffn_input_ln": "post_attention_layernorm:output",
            "output": ":output",
        },
    ),
    Family(
        ("opt",),  # not OPT-350m, which normalises after the residual connections (`refuse`)
        layers="model.decoder.layers",
        norm="model.decoder.final_layer_norm",
        head="lm_head",
        taps={
            "mhsa_input": "self_attn_layer_norm:input",
            "mhsa_input_ln": "self_attn_layer_norm:output",
            "ffn_input": "final_layer_norm:input",  # of the layer, before its feed-forward network
            "ffn_input_ln": "final_layer_norm:output",
            "output": ":output",
        },
    ),
    Family(
        ("gemma2", "gemma3_text"),  # also normalise what attention and FFN return, which no key type is
        layers="model.layers",
        norm="model.norm",
        head="lm_head",
        taps={
            "mhsa_input": "input_layernorm:input",
            "mhsa_input_ln": "input_layernorm:output",
            "ffn_input": "pre_feedforward_layernorm:input",
            "ffn_input_ln": "pre_feedforward_layernorm:output",
            "output": ":output",
        },
    ),
)
FAMILY = {model_type: family for family in FAMILIES for model_type in family.model_types}


def family(model_type: str, facts: Mapping[str, Any], own: Mapping[str, str]) -> Family | None:
    """The row of the table for an architecture; None where the study's own taps take its place.

    `facts` is the content of the model's config.json. Raises UserError for an architecture that is neither in the table
    nor given `own` taps.
    """
    if facts.get("do_layer_norm_before") is False and model_type == "opt":
        if own:
            return None
        raise UserError(
            "opt with do_layer_norm_before: false (OPT-350m) has its norms after the residual connections, so that the "
            f"key types are not where the table says: name the modules, as {EXAMPLE}"
        )
    if model_type not in FAMILY and not own:
        raise UserError(
            f"architecture {model_type!r} is not among {', '.join(FAMILY)}: name the modules of the key types that you "
            f"use, as {EXAMPLE}"
        )
    return FAMILY.get(model_type)


def notes(model_type: str, facts: Mapping[str, Any]) -> str | None:
    """What a reader must know about an architecture's key types."""
    if model_type == "gpt_neox" and facts.get("use_parallel_residual", True):
        return (
            "attention and feed-forward network read the layer's input side by side: "
            "ffn_input is the same tensor as mhsa_input"
        )
    return None


def places(table: Family | None, own: Mapping[str, str]) -> dict[str, Tap]:
    """Where the key types of the last and, with the suffix, of the second-last layer are: {key type: Tap}.

    Paths are from the root of the model. Raises UserError for a path of `own` that cannot be read.
    """
    found = {}
    for name, place in (table.taps if table else {}).items():
        module, _, side = place.partition(":")
        for number, suffix in ((-1, ""), (-2, SECOND_LAST)):
            found[name + suffix] = Tap(f"{table.layers}.{number}.{module}".rstrip("."), side)  # type: ignore[union-attr]
    for name, place in sorted(own.items()):  # a key type before the same with the suffix
        match = OWN.fullmatch(place) if isinstance(place, str) else None
        if not match:
            raise UserError(f"taps.{name}: found {place!r}, expected module:input or module:output, as {EXAMPLE}")
        parts = match["module"].split(".")
        found[name] = Tap(match["module"], match["side"])
        found.pop(name + SECOND_LAST, None)
        if "-1" in parts and not name.endswith(SECOND_LAST):
            lower = ".".join("-2" if part == "-1" else part for part in parts)
            found[name + SECOND_LAST] = Tap(lower, match["side"])
    return found
