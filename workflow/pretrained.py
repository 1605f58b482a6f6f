"""Where a study's pretrained models come from, and how large they are, known without reading their weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knnlm.settings import Archive, Pretrained, PretrainedSizes, Study, Vocab

STATED = {  # how config.json names each size
    "layers": ("num_hidden_layers", "n_layer"),
    "dim": ("hidden_size", "n_embd"),
    "vocab_size": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions"),
}
UNKNOWN = PretrainedSizes(parameters=1_500_000_000, layers=32, dim=2048, vocab_size=100_000)  # only sizes jobs


def origin(study: Study, entry: Pretrained | Vocab) -> str:
    """The path of the archive, file or folder that an entry of the study names."""
    return entry.path or f"{study.downloads}/{entry.archive}"


def facts(study: Study, entry: Pretrained | Vocab, catalogue: Mapping[str, Archive]) -> dict[str, Any]:
    """Where an entry's model is, with what the catalogue says of it where the entry itself says nothing."""
    listed = catalogue[entry.archive].model_dump() if entry.archive else {}
    found = {"path": origin(study, entry)}
    found |= {key: listed.get(key) or "" for key in ("sha256", "description", "licence", "member")}
    return found | {key: value for key in found if (value := getattr(entry, key, None))}


def sizes(entry: Pretrained, catalogue: Mapping[str, Archive]) -> PretrainedSizes | None:
    """The study's own sizes, the catalogue's, or those of a folder's config.json; None where none of them says."""
    if entry.sizes or entry.archive:
        return entry.sizes or catalogue[entry.archive or ""].sizes
    try:
        stated = json.loads((Path(entry.path or "") / "config.json").read_text(encoding="utf-8"))
        found = {key: next((stated[name] for name in names if name in stated), None) for key, names in STATED.items()}
        layer = 4 * found["dim"] ** 2 + 3 * found["dim"] * (stated.get("intermediate_size") or 4 * found["dim"])
        found["parameters"] = 2 * found["vocab_size"] * found["dim"] + found["layers"] * layer  # about
        return PretrainedSizes.model_validate(found)
    except (OSError, ValueError, TypeError, AttributeError):  # the import says what is wrong with the model
        return None
