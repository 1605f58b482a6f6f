"""The paper's claims, judged by this study's own numbers.

config/paper_numbers.yaml has each claim's text, the paper's numbers and the criterion in words. Here is the criterion
in arithmetic: one function for each claim, named as the claim is there, with underscores for hyphens.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from knnlm.scores.experiments import Missing, Study, neighbors, sizes
from knnlm.settings import LAYER_KEYTYPES as KEYTYPES

HELD, FAILED, OPEN = "held", "did not hold", "cannot be judged at this scale"
ZERO_LOSS = 0.1  # nats a token; a training loss below it counts as zero
ENOUGH = 0.6  # of the datastore's entries; the paper's 1.6B of 2.87B are 0.56
judges: dict[str, Callable[[Study], "Judgement"]] = {}


class Judgement(NamedTuple):
    """What a study says about one claim: its numbers as text, the verdict and, where it is open, the reason."""

    ours: str
    verdict: str
    reason: str = ""


class Verdict(NamedTuple):
    """One line of the table of claims: the claim as the paper has it, and the judgement."""

    id: str
    output: str
    section: str
    quote: str
    paper: str
    ours: str
    verdict: str
    criterion: str
    reason: str


def judge(paper: Mapping, study: Study) -> list[Verdict]:
    """Every claim of `paper` (config/paper_numbers.yaml), in its order; open where the study lacks a number."""
    verdicts = []
    for name, claim in paper["claims"].items():
        try:
            ours, verdict, reason = judges[name](study)
        except Missing as missing:
            ours, verdict, reason = "–", OPEN, str(missing)
        texts = {key: claim[key] for key in ("output", "section", "quote", "paper", "criterion")}
        verdicts.append(Verdict(id=name, ours=ours, verdict=verdict, reason=reason, **texts))
    return verdicts


def claim(function: Callable[[Study], Judgement]) -> Callable[[Study], Judgement]:
    """Register the judge of the claim that the function is named after."""
    judges[function.__name__.replace("_", "-")] = function
    return function


def lower(output: str, name: str, base: str, split: str) -> Callable[[Study], Judgement]:
    """The judge of a claim that row `name` of an experiment has a lower perplexity than row `base`."""

    def compare(study: Study) -> Judgement:
        before, after = study.perplexity(output, base, split), study.perplexity(output, name, split)
        return _says(after < before, change(before, after))

    return compare


def change(before: float, after: float) -> str:
    """As in "18.65 → 16.12 (−2.53)"."""
    return f"{before:.2f} → {after:.2f} ({signed(after - before)})"


def signed(value: float) -> str:
    """Two decimals after a plus or a typographic minus sign."""
    return f"{value:+.2f}".replace("-", "−")


judges |= {
    "gain": lower("table1", "knn-cache", "base", "test"),
    "knn": lower("table1", "knn", "base", "test"),
    "books": lower("table2", "knn", "base", "test"),
    "more-data": lower("table3", "base-large", "base-small", "test"),
    "retrieval-beats-training": lower("table3", "knn", "base-large", "test"),
    "domain": lower("table4", "knn", "base", "test"),
    "precision": lower("precision", "exact", "quantized", "dev"),
    "l2": lower("metric", "l2", "ip", "dev"),
    "memorizing-overfits": lower("memorizing", "base", "memorizing-alone", "dev"),
}


@claim
def cache_small(study: Study) -> Judgement:
    cache, knn = (study.gain("table1", name, split="test") for name in ("cache", "knn"))
    return _says(0 < cache < knn, f"cache {signed(-cache)}, kNN {signed(-knn)}")


@claim
def cache_additive(study: Study) -> Judgement:
    both, knn, cache = (study.perplexity("table1", name, "test") for name in ("knn-cache", "knn", "cache"))
    return _says(both < min(knn, cache), f"{both:.2f} against {knn:.2f} and {cache:.2f}")


@claim
def size_monotone(study: Study) -> Judgement:
    dev = [row["dev"]["perplexity"] for _, row in _sizes(study)]
    return _says(_falls(dev, strictly=True), " → ".join(f"{value:.2f}" for value in dev))


@claim
def enough_entries(study: Study) -> Judgement:
    large, stores = study.perplexity("figure2", "base-large"), _sizes(study)
    (*smaller, (whole, _)), best = stores, min(row["dev"]["perplexity"] for _, row in stores)
    better = [(n, row) for n, row in smaller if n <= ENOUGH * whole and row["dev"]["perplexity"] < large]
    if not better:
        return Judgement(f"best {best:.2f} against {large:.2f}", FAILED)
    entries, smallest = better[0]
    return Judgement(
        f"{entries / whole:.0%} of the entries: {smallest['dev']['perplexity']:.2f} against {large:.2f}", HELD
    )


@claim
def not_saturated(study: Study) -> Judgement:
    before, after = (row["dev"]["perplexity"] for _, row in _sizes(study)[-2:])
    return _says(after < before, f"last step {change(before, after)}")


@claim
def lambda_grows(study: Study) -> Judgement:
    tuned = [median(row["lmbda"]["knn"]) for _, row in _sizes(study)]
    rises = all(a <= b for a, b in pairwise(tuned)) and tuned[0] < tuned[-1]
    return _says(rises, " → ".join(f"{value:.2f}" for value in tuned))


@claim
def domain_training(study: Study) -> Judgement:
    books, knn, wiki = (study.perplexity("table4", name, "test") for name in ("in-domain", "knn", "base"))
    return _says(books < knn < wiki, f"in-domain {books:.2f}, adapted {knn:.2f}, unadapted {wiki:.2f}")


@claim
def keys_help(study: Study) -> Judgement:
    base, keys = study.perplexity("table5", "base"), _last_layer(study).values()
    return _says(max(keys) < base, f"{min(keys):.2f} to {max(keys):.2f}, base {base:.2f}")


@claim
def keys_ffn(study: Study) -> Judgement:
    keys = _last_layer(study)
    best = min(keys, key=keys.__getitem__)
    return _says(best == "ffn_input_ln", f"ffn_input_ln {keys['ffn_input_ln']:.2f}, best {best} {keys[best]:.2f}")


@claim
def keys_normalised(study: Study) -> Judgement:
    places = ("output", "ffn_input", "mhsa_input")
    pairs = [(study.perplexity("table5", f"{place}_ln"), study.perplexity("table5", place)) for place in places]
    return _says(all(after < before for after, before in pairs), ", ".join(f"{a:.2f} / {b:.2f}" for a, b in pairs))


@claim
def keys_second_last(study: Study) -> Judgement:
    last = min(_last_layer(study).values())
    measured = [name for name in study.rows("table5") if name.endswith("-second_last")]
    if not measured:
        raise Missing("table5 has no second-last layer")
    second = min(study.perplexity("table5", name) for name in measured)
    return _says(last < second, f"last {last:.2f}, second-last {second:.2f}")


@claim
def k_monotone(study: Study) -> Judgement:
    points = _several(neighbors(study), "k")
    return _says(_falls([value for _, value in points]), ", ".join(f"k={k} {value:.2f}" for k, value in points))


@claim
def k_eight(study: Study) -> Judgement:
    (largest, _), base = _several(neighbors(study), "k")[-1], study.perplexity("figure4", "base")
    eight, full = study.gain("figure4", "k8"), study.gain("figure4", f"k{largest}")
    ours = f"k=8 {signed(-eight)}, k={largest} {signed(-full)} from {base:.2f}"
    if full <= 0:
        return Judgement(ours, OPEN, "kNN gives no gain to share")
    return _says(eight >= full / 2, ours)


@claim
def lambda_domain(study: Study) -> Judgement:
    inside, outside = (median(study.row("figure5", name)["lmbda"]["knn"]) for name in ("in-domain", "out-of-domain"))
    return _says(outside > inside, f"λ {inside:.2f} in domain, {outside:.2f} out of domain")


@claim
def ngram(study: Study) -> Judgement:
    orders = [name for name in study.rows("figure7") if name.startswith("order")]
    if not orders:
        raise Missing("figure7 has no n-gram order")
    best = max(study.gain("figure7", name) for name in orders)
    knn = study.gain("figure7", "knn")
    return _says(best < knn, f"n-gram {signed(-best)}, kNN {signed(-knn)}")


@claim
def memorizing_zero(study: Study) -> Judgement:
    curve = [point for point in study.curves.get("memorizing", []) if point["train_loss"] is not None]
    if not curve:
        raise Missing("no learning curve of the memorizing LM")
    last = curve[-1]
    ours = f"{last['train_loss']:.3f} nats on {round(last['tokens'] / last['epoch']):,} tokens"
    if last["train_loss"] >= ZERO_LOSS:
        return Judgement(ours, OPEN, "training stopped before the loss levelled off")
    return Judgement(ours, HELD)


@claim
def memorizing_mix(study: Study) -> Judgement:
    memorizing, knn = study.gain("memorizing", "memorizing"), study.gain("memorizing", "knn")
    return _says(memorizing < knn, f"{signed(-memorizing)} against {signed(-knn)}")


def _says(held: bool, ours: str) -> Judgement:
    return Judgement(ours, HELD if held else FAILED)


def _falls(values: list[float], strictly: bool = False) -> bool:
    """Whether no value is above the one before it or, if `strictly`, each is below it."""
    return all(after < before or (after == before and not strictly) for before, after in pairwise(values))


def _sizes(study: Study) -> list[tuple[int, dict]]:
    """Figure 2's datastores as (entries, row), from the smallest to the whole; two or more."""
    return _several(sizes(study), "datastore size")


def _last_layer(study: Study) -> dict[str, float]:
    """Dev perplexities of Table 5's key types of the last layer."""
    return {name: study.perplexity("table5", name) for name in KEYTYPES}


def _several(points: list, name: str) -> list:
    """The same points; raises Missing where there is only one, so that nothing can be compared."""
    if len(points) < 2:
        raise Missing(f"only one {name} was run")
    return points
