"""Mix log-probabilities with weights tuned on dev, for each row of a table (equation 3)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knnlm.artifacts import description, files, lineage, npy
from knnlm.artifacts.cli import parsed, progress, settings
from knnlm.scores import grids, mixture, row_files, stats
from knnlm.settings import InterpolateSettings

COMPONENTS = ("knn", "cache", "ngram", "infinigram", "memorizing")
SPARSE = ("knn", "cache", "infinigram")  # which give some words the probability 0
LAMBDA_RESAMPLES = 200  # of the documents of dev, on each of which λ is tuned again


@dataclass(frozen=True)
class InterpolateConfig:
    """Measure every row of one table or figure: weights tuned on dev, perplexities of dev and, where given, of test."""

    rows: str
    """JSON list of rows, each with the paths of what it mixes; or @FILE, a file of it. A row's vocab is given where
    tokenizers differ; its text's words and bytes are then recorded"""
    documents: str
    """JSON {corpus: {split: path of its documents.npy}}; VOCAB/CORPUS for rows with vocab"""
    out: Path
    """the experiment, experiments/OUTPUT.json"""
    settings: str = "{}"
    """InterpolateSettings as JSON"""


def main(config: InterpolateConfig) -> None:
    chosen = settings(InterpolateSettings, config.settings, "interpolation settings")
    sheet: Any = (
        files.read_json(Path(config.rows[1:])) if config.rows[:1] == "@" else parsed(config.rows, "--rows", list)
    )
    documents = {
        text: {split: Path(path) for split, path in splits.items()}
        for text, splits in parsed(config.documents, "--documents").items()
    }
    rows, paths = [], {}
    for row in progress(sheet, "interpolate", unit="row"):
        text = f"{row['vocab']}/{row['corpus']}" if "vocab" in row else row["corpus"]
        measured, tuned = measure(row, documents[text], chosen)
        rows.append(measured)
        paths[row["name"]] = row_files.record(row, tuned, config.out.parent)
    files.write_json(config.out, {"experiment": config.out.stem, "rows": rows, "paths": paths})
    description.write_meta(config.out, "interpolate", chosen, row_files.inputs(sheet, documents))


def measure(
    row: dict, documents: dict[str, Path], chosen: InterpolateSettings
) -> tuple[dict, list[dict[str, grids.Setting]]]:
    """One row with its tuned weights, perplexities and intervals; for a single component also the curve over λ.

    The second value has, for each seed, the setting that dev chose of each component that has several.
    """
    check_row(row, documents)
    mixed, weights, picked, single = [], [], [], []
    for seed in range(len(row["seeds"])):
        lm, parts, best_settings = load(row, seed, chosen)
        tuned = tune(parts["dev"], lm["dev"], chosen)
        mixed.append({split: mixture.mix(tuned, parts[split], lm[split]) for split in lm})
        weights.append(tuned)
        picked.append(best_settings)
        if len(parts["dev"]) == 1:
            single.append((parts["dev"][0], lm["dev"]))
            if seed == 0:
                curve = curves(parts, lm, grid(chosen))
    names = present(row)
    _, best = stats.median([mixture.perplexity(logprobs["dev"]) for logprobs in mixed])
    measured = {
        **{key: row.get(key) for key in ("name", "label", "corpus", "model", "ngram", "memorizing", "seeds")},
        **({"vocab": row["vocab"]} if "vocab" in row else {}),
        **model_facts(row),
        "datastore": datastore_facts(row, picked),
        "cache": [settings_of["cache"] for settings_of in picked] if "cache" in names else None,
        "lmbda": {name: [float(tuned[m]) for tuned in weights] for m, name in enumerate(names)},
        **{split: summary([m[split] for m in mixed], best, documents[split], chosen) for split in row["lm"]},
        "best_seed": row["seeds"][best],
        "curve": curve if len(names) == 1 else None,
    }
    starts = np.asarray(npy.open_array(documents["dev"], "integer", 1))
    measured["lmbda_resampled"] = (
        mixture.tune_resampled(grid(chosen), *single[best], starts, LAMBDA_RESAMPLES, chosen.seed).tolist()
        if single
        else None
    )
    if "vocab" in row:
        for split in row["lm"]:
            measured[split] |= text_size(documents[split], split)
    return measured, picked


def grid(chosen: InterpolateSettings) -> np.ndarray:
    """The λ to try, float64, rising: 0, 0.01, …, 1 where the settings name none."""
    return np.linspace(0, 1, 101) if chosen.lmbda is None else np.array(chosen.lmbda, np.float64)


def check_row(row: dict, documents: dict[str, Path]) -> None:
    """Raise UserError where a row's scores are not of one text, of one model for each seed, and of one datastore."""
    lineage.differ(map(Path, row["lm"]["dev"]), "model")
    for number, seed in enumerate(row["seeds"]):
        model = [Path(path) for path in (row.get("model_dirs") or [])[number : number + 1]]
        for path in model:
            if (trained := description.described(path).get("seed", seed)) != seed:
                raise files.UserError(f"{path}: was trained with seed {trained}, expected {seed}: train it again")
        knn = []
        for split in row["lm"]:
            lm = Path(row["lm"][split][number])
            parts = {name: Path(row["components"][name][split][number]) for name in present(row)}
            lineage.agree((documents[split], lm, *parts.values()), "vocab", "text")
            lineage.agree((*model, lm, *(parts[name] for name in ("knn", "cache") if name in parts)), "model")
            knn += [parts["knn"]] if "knn" in parts else []
        lineage.agree(knn, "keytype", "deal", "index", "datastore")
        if knn and not number and "neighbors" in (row.get("datastore") or {}):
            lineage.agree((row["datastore"]["neighbors"], knn[0]), "model", "index", "datastore", "queries")


def load(row: dict, seed: int, chosen: InterpolateSettings) -> tuple[dict, dict, dict[str, grids.Setting]]:
    """Vectors of the seed at position `seed`: the LM's {split: [N]}, the components' {split: [M][N]}, in nats.

    The third value is the setting that is best on dev of each component that has several.
    """
    paths = {split: {"lm": Path(row["lm"][split][seed])} for split in row["lm"]}
    for name in present(row):
        for split in paths:
            paths[split][name] = Path(row["components"][name][split][seed])
    best = choose(row, paths["dev"], chosen)
    vectors = {split: open_vectors(row["name"], grids.at(row, paths[split], best)) for split in paths}
    lm = {split: vectors[split].pop("lm") for split in paths}
    return lm, {split: list(vectors[split].values()) for split in paths}, best


def present(row: dict) -> list[str]:
    """The row's components, in the order of their weights."""
    if unknown := set(row.get("components") or {}) - set(COMPONENTS):
        raise files.UserError(
            f"row {row['name']}: unknown component {min(unknown)!r}; allowed: {', '.join(COMPONENTS)}"
        )
    return [name for name in COMPONENTS if name in (row.get("components") or {})]


def tune(components: list[np.ndarray], lm: np.ndarray, chosen: InterpolateSettings) -> np.ndarray:
    """Weights [M] of the components [M][N] beside the LM [N]: several components are tuned on a coarser grid."""
    if not components:
        return np.empty(0)
    return mixture.tune(components, lm, grid(chosen) if len(components) == 1 else None)


def choose(row: dict, dev: dict[str, Path], chosen: InterpolateSettings) -> dict[str, grids.Setting]:
    """The settings with the least dev perplexity, each combination tried with its own best weights; ties to the first.

    Returns {component: setting} of those components that come in several.
    """
    choices = list(grids.choices(row, dev))
    if len(choices) == 1:
        return choices[0]
    tried = []
    for settings_of in choices:
        vectors = open_vectors(row["name"], grids.at(row, dev, settings_of))
        lm, parts = vectors.pop("lm"), list(vectors.values())
        tried.append(mixture.losses(tune(parts, lm, chosen)[None], parts, lm)[0])
    return choices[int(np.argmin(tried))]


def open_vectors(name: str, paths: dict[str, Path]) -> dict[str, np.ndarray]:
    """Log probabilities [N] by component; raises UserError where two do not score the same targets."""
    vectors = {}
    for component, path in paths.items():
        vectors[component] = np.asarray(npy.open_array(path, "floating", 1))
        if len(vectors[component]) != len(vectors["lm"]):
            raise files.UserError(
                f"row {name}: {paths['lm']} has {len(vectors['lm']):,} targets, {path} {len(vectors[component]):,}: "
                "score both again with the same tokens and windows"
            )
        if np.isnan(vectors[component]).any():
            raise files.UserError(f"row {name}: {path} holds NaN; score it again")
        check_range(name, component, path, vectors[component])
    return vectors


def check_range(name: str, component: str, path: Path, logprob: np.ndarray) -> None:
    """Raise UserError for a log-probability above 0, and for a probability of 0 of what is not `SPARSE`."""
    largest, smallest = logprob.max(initial=-np.inf), logprob.min(initial=0)
    if largest > mixture.ROUNDING:
        raise files.UserError(f"row {name}: {path} holds a log probability of {largest:.3g} (above 0); score it again")
    if np.isneginf(smallest) and component not in SPARSE:
        raise files.UserError(f"row {name}: {path} holds -inf, and the {component} gives no word 0; score it again")


def summary(logprobs: list[np.ndarray], best: int, documents: Path, chosen: InterpolateSettings) -> dict:
    """The median perplexity over seeds, each seed's own, the interval of the seed at position `best`, and the nats of
    each document.
    """
    per_seed = [mixture.perplexity(logprob) for logprob in logprobs]
    starts, tokens = np.asarray(npy.open_array(documents, "integer", 1)), len(logprobs[best])
    if len(starts) == 0 or starts[-1] >= tokens or split_size(documents) not in (None, tokens):
        raise files.UserError(
            f"{documents} does not fit {tokens:,} scored targets: give that of the scored split, and score all of it"
        )
    return {
        "perplexity": stats.median(per_seed)[0],
        "per_seed": per_seed,
        "interval": stats.interval(logprobs[best], starts, chosen.resamples, chosen.seed),
        "nats": document_nats(logprobs, starts),
        "tokens": tokens,
        "documents": len(starts),
    }


def document_nats(logprobs: list[np.ndarray], starts: np.ndarray) -> list[float]:
    """-log p of each document's tokens, nats, the mean over seeds; from what rows are compared document by document."""
    sums = [stats.document_sums(logprob, starts)[0] for logprob in logprobs]
    return [round(float(value), 4) for value in -np.mean(sums, axis=0)]


def split_size(documents: Path) -> int | None:
    """The number of tokens in the split, from the description of its tokens; None if there is none."""
    if not description.is_described(documents):
        return None
    return description.described(documents)["outputs"][documents.name.replace(".documents", "")]["shape"][0]


def text_size(documents: Path, split: str) -> dict[str, int]:
    """The split's words (between white space) and UTF-8 bytes, as `binarize` counted them in the text of its documents.

    What a tokenizer adds to the text, as the end of a document, is neither.
    """
    size = description.described(documents).get("text", {}).get(split, {})
    if not all(size.get(unit) for unit in ("words", "bytes")):
        raise files.UserError(f"{documents}: its description has no words and bytes of {split}: binarize again")
    return {unit: size[unit] for unit in ("words", "bytes")}


def curves(parts: dict, lm: dict, grid: np.ndarray) -> dict:
    """Perplexity of a two-way mixture at every λ; null where a target has probability zero (λ = 1)."""
    curve: dict[str, list] = {"lmbda": list(grid)}
    for split in lm:
        values = mixture.curve(grid, parts[split][0], lm[split])
        curve[split] = [float(value) if np.isfinite(value) else None for value in values]
    return curve


def model_facts(row: dict) -> dict:
    """Numbers of parameters and of training tokens, from the directory of the first seed's model.

    Of a pretrained model also what the study says of it.
    """
    if not row.get("model_dirs"):
        return {"parameters": None, "training_tokens": None}
    directory = Path(row["model_dirs"][0])
    facts = description.described(directory) | files.read_json(description.check(directory / "config.json"))
    known = {"parameters": facts.get("parameters"), "training_tokens": facts.get("training_tokens")}
    return known | {key: facts[key] for key in ("description", "licence", "notes") if facts.get(key)}


def datastore_facts(row: dict, picked: list[dict[str, grids.Setting]]) -> dict | None:
    """The row's settings of its datastore, with the numbers of entries searched and in all.

    A temperature that was tuned is a list of each seed's.
    """
    datastore = row.get("datastore")
    if not datastore:
        return None
    facts = {key: value for key, value in datastore.items() if key != "neighbors"}
    if "neighbors" in datastore:
        meta = description.described(datastore["neighbors"])
        facts |= {"entries": meta["entries"], "entries_total": meta["entries_total"]}
    if grids.tunes_temperature(row):
        facts["temperature"] = [settings_of["knn"]["temperature"] for settings_of in picked]
    return facts
