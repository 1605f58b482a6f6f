"""The paper's claims, judged on this study's own numbers.

Texts and the paper's numbers stand in config/paper_numbers.yaml; here is what each claim means in arithmetic.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from knnlm.scores.experiments import Missing, Study, neighbors, sizes
from knnlm.settings import LAYER_KEYTYPES as KEYTYPES

HELD, FAILED, OPEN = "held", "did not hold", "cannot be judged at this scale"
ZERO_LOSS = 0.1  # nats a token
ENOUGH = 0.6  # of the datastore's entries; the paper's 1.6B of 2.87B are 0.56
judges: dict[str, Callable[[Study], "Judgement"]] = {}


class Judgement(NamedTuple):
    ours: str
    verdict: str
    reason: str = ""


class Verdict(NamedTuple):
    """One line of the ledger."""

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
    """Every claim of the paper's sheet, in its order."""
    ledger = []
    for name, claim in paper["claims"].items():
        try:
            ours, verdict, reason = judges[name](study)
        except Missing as missing:
            ours, verdict, reason = "–", OPEN, str(missing)
        texts = {key: claim[key] for key in ("output", "section", "quote", "paper", "criterion")}
        ledger.append(Verdict(id=name, ours=ours, verdict=verdict, reason=reason, **texts))
    return ledger


def claim(name: str) -> Callable:
    def register(function: Callable[[Study], Judgement]) -> Callable[[Study], Judgement]:
        judges[name] = function
        return function

    return register


def lower(output: str, name: str, base: str, split: str) -> Callable[[Study], Judgement]:
    """The claim that row `name` has a lower perplexity than row `base`."""

    def compare(study: Study) -> Judgement:
        before, after = study.perplexity(output, base, split), study.perplexity(output, name, split)
        return _says(after < before, change(before, after))

    return compare


def change(before: float, after: float) -> str:
    return f"{before:.2f} → {after:.2f} ({signed(after - before)})"


def signed(value: float) -> str:
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


@claim("cache-small")
def _(study: Study) -> Judgement:
    cache, knn = (study.gain("table1", name, split="test") for name in ("cache", "knn"))
    return _says(0 < cache < knn, f"cache {signed(-cache)}, kNN {signed(-knn)}")


@claim("cache-additive")
def _(study: Study) -> Judgement:
    both, knn, cache = (study.perplexity("table1", name, "test") for name in ("knn-cache", "knn", "cache"))
    return _says(both < min(knn, cache), f"{both:.2f} against {knn:.2f} and {cache:.2f}")


@claim("size-monotone")
def _(study: Study) -> Judgement:
    dev = [row["dev"]["perplexity"] for _, row in _several(sizes(study), "datastore size")]
    return _says(_falls(dev, strictly=True), " → ".join(f"{value:.2f}" for value in dev))


@claim("enough-entries")
def _(study: Study) -> Judgement:
    large, (*smaller, (whole, _)) = study.perplexity("figure2", "base-large"), _several(sizes(study), "datastore size")
    for entries, row in smaller:
        if entries <= ENOUGH * whole and row["dev"]["perplexity"] < large:
            share = f"{entries / whole:.0%} of the entries"
            return Judgement(f"{share}: {row['dev']['perplexity']:.2f} against {large:.2f}", HELD)
    best = min(row["dev"]["perplexity"] for _, row in sizes(study))
    return Judgement(f"best {best:.2f} against {large:.2f}", FAILED)


@claim("not-saturated")
def _(study: Study) -> Judgement:
    (_, before), (_, after) = _several(sizes(study), "datastore size")[-2:]
    before, after = before["dev"]["perplexity"], after["dev"]["perplexity"]
    return _says(after < before, f"last step {change(before, after)}")


@claim("lambda-grows")
def _(study: Study) -> Judgement:
    tuned = [median(row["lmbda"]["knn"]) for _, row in _several(sizes(study), "datastore size")]
    rises = all(a <= b for a, b in pairwise(tuned)) and tuned[0] < tuned[-1]
    return _says(rises, " → ".join(f"{value:.2f}" for value in tuned))


@claim("domain-training")
def _(study: Study) -> Judgement:
    books, knn, wiki = (study.perplexity("table4", name, "test") for name in ("in-domain", "knn", "base"))
    return _says(books < knn < wiki, f"in-domain {books:.2f}, adapted {knn:.2f}, unadapted {wiki:.2f}")


@claim("keys-help")
def _(study: Study) -> Judgement:
    base, keys = study.perplexity("table5", "base"), [study.perplexity("table5", name) for name in KEYTYPES]
    return _says(max(keys) < base, f"{min(keys):.2f} to {max(keys):.2f}, base {base:.2f}")


@claim("keys-ffn")
def _(study: Study) -> Judgement:
    keys = {name: study.perplexity("table5", name) for name in KEYTYPES}
    best = min(keys, key=keys.__getitem__)
    return _says(best == "ffn_input_ln", f"ffn_input_ln {keys['ffn_input_ln']:.2f}, best {best} {keys[best]:.2f}")


@claim("keys-normalised")
def _(study: Study) -> Judgement:
    names = ("output", "ffn_input", "mhsa_input")
    pairs = [(study.perplexity("table5", f"{name}_ln"), study.perplexity("table5", name)) for name in names]
    return _says(all(after < before for after, before in pairs), ", ".join(f"{a:.2f} / {b:.2f}" for a, b in pairs))


@claim("keys-second-last")
def _(study: Study) -> Judgement:
    last = min(study.perplexity("table5", name) for name in KEYTYPES)
    measured = [name for name in study.rows("table5") if name.endswith("-second_last")]
    if not measured:
        raise Missing("table5 has no second-last layer")
    second = min(study.perplexity("table5", name) for name in measured)
    return _says(last < second, f"last {last:.2f}, second-last {second:.2f}")


@claim("k-monotone")
def _(study: Study) -> Judgement:
    points = _several(neighbors(study), "k")
    return _says(_falls([value for _, value in points]), ", ".join(f"k={k} {value:.2f}" for k, value in points))


@claim("k-eight")
def _(study: Study) -> Judgement:
    (largest, _), base = _several(neighbors(study), "k")[-1], study.perplexity("figure4", "base")
    eight, full = study.gain("figure4", "k8"), study.gain("figure4", f"k{largest}")
    ours = f"k=8 {signed(-eight)}, k={largest} {signed(-full)} from {base:.2f}"
    if full <= 0:
        return Judgement(ours, OPEN, "kNN gives no gain to share")
    return _says(eight >= full / 2, ours)


@claim("lambda-domain")
def _(study: Study) -> Judgement:
    inside, outside = (median(study.row("figure5", name)["lmbda"]["knn"]) for name in ("in-domain", "out-of-domain"))
    return _says(outside > inside, f"λ {inside:.2f} in domain, {outside:.2f} out of domain")


@claim("ngram")
def _(study: Study) -> Judgement:
    orders = [name for name in study.rows("figure7") if name.startswith("order")]
    if not orders:
        raise Missing("figure7 has no n-gram order")
    best = max(study.gain("figure7", name) for name in orders)
    knn = study.gain("figure7", "knn")
    return _says(best < knn, f"n-gram {signed(-best)}, kNN {signed(-knn)}")


@claim("memorizing-zero")
def _(study: Study) -> Judgement:
    curve = [point for point in study.curves.get("memorizing", []) if point["train_loss"] is not None]
    if not curve:
        raise Missing("no learning curve of the memorizing LM")
    last = curve[-1]
    ours = f"{last['train_loss']:.3f} nats on {round(last['tokens'] / last['epoch']):,} tokens"
    if last["train_loss"] >= ZERO_LOSS:
        return Judgement(ours, OPEN, "training stopped before the loss levelled off")
    return Judgement(ours, HELD)


@claim("memorizing-mix")
def _(study: Study) -> Judgement:
    memorizing, knn = study.gain("memorizing", "memorizing"), study.gain("memorizing", "knn")
    return _says(memorizing < knn, f"{signed(-memorizing)} against {signed(-knn)}")


def _says(held: bool, ours: str) -> Judgement:
    return Judgement(ours, HELD if held else FAILED)


def _falls(values: list[float], strictly: bool = False) -> bool:
    return all(b < a or (b == a and not strictly) for a, b in pairwise(values))


def _several(points: list, name: str) -> list:
    if len(points) < 2:
        raise Missing(f"only one {name} was run")
    return points
