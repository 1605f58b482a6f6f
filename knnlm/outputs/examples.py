"""Figure 6 and Tables 6-9: the contexts where p_kNN beats p_LM most, with the neighbors that did it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape

from knnlm.artifacts import description, files, lineage, npy
from knnlm.artifacts.files import UserError
from knnlm.corpora import vocab
from knnlm.corpora.text import paragraph, plain
from knnlm.scores import experiments as studies


@dataclass(frozen=True)
class ExamplesConfig:
    """Show the contexts of a split where p_kNN beats p_LM most, as Markdown and HTML."""

    neighbors: Path
    """merged neighbors of the split: ids, distances, values"""
    lm: Path
    """log-probabilities of the LM, float32 [N]"""
    knn: Path
    """log-probabilities of kNN, float32 [N]"""
    eval_tokens: Path
    """token stream of the split, [N]"""
    eval_documents: Path
    """its document offsets, int64 [D]"""
    train_tokens: Path
    """token stream of the datastore's corpus"""
    train_documents: Path
    """its document offsets, int64 [D]"""
    vocab: Path
    """vocabulary, for readable text"""
    experiment: Path
    """experiments/table1.json, for the tuned λ"""
    out: Path
    """folder of examples.md and examples.html"""
    row: str = "knn"
    """row of the experiment whose λ is used"""
    seed: int = 1
    """the model's seed"""
    distance: str = "exact"
    """exact, quantized or quantized_sqrt: as for --knn"""
    temperature: float = 1.0
    """of the softmax over distances: as for --knn"""
    count: int = 8
    """number of examples"""
    context: int = 40
    """tokens of left context shown"""
    shown: int = 5
    """neighbors shown for each example"""
    note: str = ""
    """the line below the title: the study and its scale"""


@dataclass(frozen=True)
class Neighbor:
    context: str
    target: str
    hit: bool  # its target is the context's
    distance: float
    probability: float  # share of p_kNN that this entry carries


@dataclass(frozen=True)
class Example:
    context: str
    target: str
    knn: float
    lm: float
    mixture: float
    neighbors: list[Neighbor]


@dataclass(frozen=True)
class Text:
    """A token stream that is read as text, up to the beginning of its document."""

    tokens: np.ndarray  # [N]
    documents: np.ndarray  # [D] start offsets
    detokenize: Callable[[list[int]], str]
    context: int

    def document(self, position: int) -> int:
        return int(np.searchsorted(self.documents, position, side="right")) - 1

    def before(self, position: int) -> str:
        start = max(position - self.context, int(self.documents[self.document(position)]))
        return " ".join(self.detokenize(self.tokens[start:position].tolist()).split())

    def at(self, position: int) -> str:
        return self.detokenize([int(self.tokens[position])]).strip()


def main(config: ExamplesConfig) -> None:
    belonging(config)
    tokens, lm, nearest = (npy.open_array(path, ndim=1) for path in (config.eval_tokens, config.lm, config.knn))
    if not len(tokens) == len(lm) == len(nearest):
        found = f"{len(tokens):,} tokens, {len(lm):,} LM and {len(nearest):,} kNN log-probabilities"
        raise UserError(f"{config.lm}: found {found}; score again with the same windows")
    row = studies.load([config.experiment]).row(files.read_json(config.experiment)["experiment"], config.row)
    if config.seed not in row["seeds"]:
        raise UserError(f"--seed {config.seed}: {config.experiment} has seeds {row['seeds']}")
    lmbda = row["lmbda"]["knn"][row["seeds"].index(config.seed)]
    detokenize = vocab.load(config.vocab).detokenize
    held_out = Text(tokens, npy.open_array(config.eval_documents), detokenize, config.context)
    train = Text(
        npy.open_array(config.train_tokens), npy.open_array(config.train_documents), detokenize, config.context
    )
    examples = []
    for position in select(np.exp(nearest) - np.exp(lm), held_out, config.count):
        p_knn, p_lm = float(np.exp(nearest[position])), float(np.exp(lm[position]))
        retrieved = list(neighbors(config, train, position, int(tokens[position])))
        mixture = lmbda * p_knn + (1 - lmbda) * p_lm
        examples.append(Example(held_out.before(position), held_out.at(position), p_knn, p_lm, mixture, retrieved))
    with files.atomic(config.out, directory=True) as tmp:
        for name in ("examples.md", "examples.html"):
            (tmp / name).write_text(render(name, examples=examples, lmbda=lmbda, note=config.note), encoding="utf-8")
        inputs = {name: getattr(config, name) for name in ("neighbors", "lm", "knn", "eval_tokens", "experiment")}
        description.write_meta(tmp, "examples", config, inputs)


def belonging(config: ExamplesConfig) -> None:
    """Raise UserError where scores, neighbors and texts do not belong together."""
    scored = config.neighbors, config.lm, config.knn, config.eval_tokens, config.eval_documents
    lineage.agree(scored, "vocab", "text", "model")
    lineage.agree((config.neighbors, config.knn), "datastore", "index", "queries")
    stored = lineage.agree((config.train_tokens, config.train_documents, config.vocab), "vocab", "text").get("text")
    searched = lineage.of(config.neighbors).get("datastore", stored)
    if searched != stored:
        raise UserError(f"{config.train_tokens} is not the text that {config.neighbors} were found in: give that one")


def select(gain: np.ndarray, text: Text, count: int) -> list[int]:
    """Positions of largest gain [N]: one a document while there are documents, then further apart than the context."""
    order = [int(position) for position in np.argsort(-gain, kind="stable")[: 200 * count] if gain[position] > 0]
    order = [position for position in order if readable(text.at(position))]
    chosen: list[int] = []
    seen: set[int] = set()
    for position in order:
        if len(chosen) < count and (document := text.document(position)) not in seen:
            chosen.append(position)
            seen.add(document)
    for position in order:
        if len(chosen) < count and all(abs(position - other) > text.context for other in chosen):
            chosen.append(position)
    return sorted(chosen, key=lambda position: -gain[position])


def readable(target: str) -> bool:
    """Whether a target tells a reader anything: no end of line, punctuation or unknown word."""
    return any(character.isalnum() for character in target) and not target.startswith("<")


def neighbors(config: ExamplesConfig, train: Text, position: int, target: int) -> Iterator[Neighbor]:
    """The entries that weigh most in p_kNN at `position`, heaviest first."""
    ids = npy.open_array(config.neighbors / "ids.npy")[position]  # [K]
    kind = "exact" if config.distance == "exact" else "distances"
    distances = npy.open_array(config.neighbors / f"{kind}.npy")[position].astype(np.float32)  # [K]
    if config.distance == "quantized_sqrt":
        distances = np.sqrt(np.maximum(distances, 0))
    probabilities = shares(distances, ids, config.temperature)  # [K]
    for column in np.argsort(-probabilities, kind="stable")[: config.shown]:
        if (entry := int(ids[column])) >= 0:
            hit = int(train.tokens[entry]) == target
            weight, distance = float(probabilities[column]), float(distances[column])
            yield Neighbor(train.before(entry), train.at(entry), hit, distance, weight)


def shares(distances: np.ndarray, ids: np.ndarray, temperature: float) -> np.ndarray:
    """Each entry's share of p_kNN, softmax(-d/T) over the entries found (id >= 0), [K]."""
    logits = np.where(ids >= 0, -distances / temperature, -np.inf)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def render(name: str, **facts: object) -> str:
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=folder, autoescape=select_autoescape(["html.j2"]), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"plain": plain, "paragraph": paragraph, "probability": probability}
    return environment.get_template(f"{name}.j2").render(**facts)


def probability(value: float) -> str:
    """Three decimals, or a power of ten where they would show 0."""
    return f"{value:.3f}" if value >= 0.0005 or value == 0 else f"{value:.1e}"
