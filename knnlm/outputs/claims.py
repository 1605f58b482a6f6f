"""The paper's claims, judged by this study's own numbers.

config/paper_numbers.yaml has each claim's text, the paper's numbers and the criterion in words. Here is the criterion
in arithmetic: one function for each claim, named as the claim is there, with underscores for hyphens.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from knnlm.outputs.verdicts import (
    HELD,
    OPEN,
    Judgement,
    better,
    compared,
    larger_lmbda,
    says,
    with_interval,
)
from knnlm.scores.experiments import Missing, Study, neighbors, sizes
from knnlm.settings import LAYER_KEYTYPES as KEYTYPES
from knnlm.settings import MAIN_KEYTYPE, SECOND_LAST

ZERO_LOSS = 0.1  # nats a token; a training loss below it counts as zero
ENOUGH = 0.6  # of the datastore's entries; the paper's 1.6B of 2.87B are 0.56
MUCH_MORE = 10  # times the text; the paper's Wiki-3B has 30 times that of Wiki-100M
MEMORIZED = 0.9  # of the training text; the paper's memorizing LM saw all of it
judges: dict[str, Callable[[Study], "Judgement"]] = {}


class Verdict(NamedTuple):
    """One line of the table of claims: the claim as the paper has it, and the judgement."""

    id: str
    output: str
    section: str
    quote: str
    paper: str
    ours: str
    intervals: str
    verdict: str
    criterion: str
    reason: str


def judge(paper: Mapping, study: Study) -> list[Verdict]:
    """Every claim of `paper` (config/paper_numbers.yaml), in its order; open where the study lacks a number."""
    verdicts = []
    for name, claim in paper.get("claims", {}).items():
        try:
            ours, verdict, reason, comparisons = judges[name](study)
        except Missing as missing:
            ours, verdict, reason, comparisons = "–", OPEN, str(missing), ()
        texts = {key: claim[key] for key in ("output", "section", "quote", "paper", "criterion")}
        intervals = "; ".join(map(with_interval, comparisons))
        verdicts.append(Verdict(id=name, ours=ours, intervals=intervals, verdict=verdict, reason=reason, **texts))
    return verdicts


def claim(function: Callable[[Study], Judgement]) -> Callable[[Study], Judgement]:
    """Register the judge of the claim that the function is named after."""
    judges[function.__name__.replace("_", "-")] = function
    return function


def lower(output: str, name: str, base: str, split: str) -> Callable[[Study], Judgement]:
    """The judge of a claim that row `name` of an experiment has a lower perplexity than row `base`."""

    def compare(study: Study) -> Judgement:
        before, after = study.perplexity(output, base, split), study.perplexity(output, name, split)
        return says(change(before, after), better(study, output, name, base, split))

    return compare


def change(before: float, after: float) -> str:
    """As in "18.65 → 16.12 (−2.53)"."""
    return f"{before:.2f} → {after:.2f} ({signed(after - before)})"


def signed(value: float) -> str:
    """Two decimals after a plus or a typographic minus sign."""
    return f"{value:+.2f}".replace("-", "−")


def much_more_text(judgement: Callable[[Study], Judgement]) -> Callable[[Study], Judgement]:
    """Open where the LM of the large corpus saw little more text than that of the small one."""

    @wraps(judgement)
    def judged(study: Study) -> Judgement:
        large, small = (study.row("table3", name).get("training_tokens") for name in ("base-large", "base-small"))
        found = judgement(study)
        if large and small and large < MUCH_MORE * small:
            reason = f"the Wiki LM is trained on {large / small:.1f} times the text of the small one, the paper's on 30"
            return found._replace(verdict=OPEN, reason=reason)
        return found

    return judged


def from_nothing(judgement: Callable[[Study], Judgement]) -> Callable[[Study], Judgement]:
    """Open where the small LM is a pretrained one, which has seen other text, and far more."""

    @wraps(judgement)
    def judged(study: Study) -> Judgement:
        found = judgement(study)
        if study.row("table3", "base-small").get("description"):
            return found._replace(verdict=OPEN, reason="both LMs were pretrained on the same text")
        return found

    return judged


def memorizes(judgement: Callable[[Study], Judgement]) -> Callable[[Study], Judgement]:
    """Open where the memorizing LM saw a part of the training text only, or stopped before it knew that by heart."""

    @wraps(judgement)
    def judged(study: Study) -> Judgement:
        found, whole = judgement(study), study.row("memorizing", "base").get("training_tokens")
        point = _last_point(study)
        seen = point["tokens"] / point["epoch"]
        if whole and seen < MEMORIZED * whole:
            return found._replace(
                verdict=OPEN,
                reason=f"the memorizing LM is trained on {seen / whole:.0%} of the text, the paper's on all",
            )
        if point["train_loss"] >= ZERO_LOSS:
            return found._replace(verdict=OPEN, reason="training stopped before the loss levelled off")
        return found

    return judged


judges |= {
    "gain": lower("table1", "knn-cache", "base", "test"),
    "knn": lower("table1", "knn", "base", "test"),
    "books": lower("table2", "knn", "base", "test"),
    "more-data": from_nothing(much_more_text(lower("table3", "base-large", "base-small", "test"))),
    "retrieval-beats-training": much_more_text(lower("table3", "knn", "base-large", "test")),
    "domain": lower("table4", "knn", "base", "test"),
    "precision": lower("precision", "exact", "quantized", "dev"),
    "l2": lower("metric", "l2", "ip", "dev"),
    "memorizing-overfits": memorizes(lower("memorizing", "base", "memorizing-alone", "dev")),
}


@claim
def cache_small(study: Study) -> Judgement:
    cache, knn = (study.gain("table1", name, split="test") for name in ("cache", "knn"))
    return says(
        f"cache {signed(-cache)}, kNN {signed(-knn)}",
        better(study, "table1", "cache", "base", "test"),
        better(study, "table1", "knn", "cache", "test"),
    )


@claim
def cache_additive(study: Study) -> Judgement:
    both, knn, cache = (study.perplexity("table1", name, "test") for name in ("knn-cache", "knn", "cache"))
    return says(
        f"{both:.2f} against {knn:.2f} and {cache:.2f}",
        *(better(study, "table1", "knn-cache", alone, "test") for alone in ("knn", "cache")),
    )


@claim
def size_monotone(study: Study) -> Judgement:
    stores = [row for _, row in _sizes(study)]
    return says(
        " → ".join(f"{row['dev']['perplexity']:.2f}" for row in stores),
        *(better(study, "figure2", after["name"], before["name"]) for before, after in pairwise(stores)),
    )


@claim
def enough_entries(study: Study) -> Judgement:
    large, stores = study.perplexity("figure2", "base-large"), _sizes(study)
    *smaller, (whole, last) = stores
    few = [(n, row) for n, row in smaller if n <= ENOUGH * whole]
    if not few:
        raise Missing(f"figure2 has no datastore of at most {ENOUGH:.0%} of the entries")
    compared = [better(study, "figure2", row["name"], "base-large") for _, row in few]
    found = next((i for i, one in enumerate(compared) if one.above), len(few) - 1)
    entries, row = few[found]
    best = last["dev"]["perplexity"]
    ours = f"{entries / whole:.0%} of the entries: {row['dev']['perplexity']:.2f} against {large:.2f}"
    return says(ours if compared[found].above else f"{ours}, all of them {best:.2f}", compared[found])


@claim
def not_saturated(study: Study) -> Judgement:
    before, after = (row for _, row in _sizes(study)[-2:])
    ours = f"last step {change(before['dev']['perplexity'], after['dev']['perplexity'])}"
    return says(ours, better(study, "figure2", after["name"], before["name"]))


@claim
def lambda_grows(study: Study) -> Judgement:
    stores = [row for _, row in _sizes(study)]
    ours = " → ".join(f"{median(row['lmbda']['knn']):#.2g}" for row in stores)
    ends = larger_lmbda(stores[-1], stores[0], paired=True)
    falls = [larger_lmbda(after, before, paired=True) for before, after in pairwise(stores)]
    fallen = [one for one in falls if one.below]
    return says(ours, *(fallen or [ends]))


@claim
def domain_training(study: Study) -> Judgement:
    books, knn, wiki = (study.perplexity("table4", name, "test") for name in ("in-domain", "knn", "base"))
    return says(
        f"in-domain {books:.2f}, adapted {knn:.2f}, unadapted {wiki:.2f}",
        better(study, "table4", "in-domain", "knn", "test"),
        better(study, "table4", "knn", "base", "test"),
    )


@claim
def keys_help(study: Study) -> Judgement:
    base, keys = study.perplexity("table5", "base"), _last_layer(study)
    return says(
        f"{min(keys.values()):.2f} to {max(keys.values()):.2f}, base {base:.2f}",
        *(better(study, "table5", name, "base") for name in keys),
    )


@claim
def keys_ffn(study: Study) -> Judgement:
    keys = _last_layer(study)
    best = min(keys, key=keys.__getitem__)
    ours = f"{MAIN_KEYTYPE} {keys[MAIN_KEYTYPE]:.2f}, best {best} {keys[best]:.2f}"
    return says(ours, *(better(study, "table5", MAIN_KEYTYPE, name) for name in keys if name != MAIN_KEYTYPE))


@claim
def keys_normalised(study: Study) -> Judgement:
    places = ("output", "ffn_input", "mhsa_input")
    pairs = [(study.perplexity("table5", f"{place}_ln"), study.perplexity("table5", place)) for place in places]
    return says(
        ", ".join(f"{a:.2f} / {b:.2f}" for a, b in pairs),
        *(better(study, "table5", f"{place}_ln", place) for place in places),
    )


@claim
def keys_second_last(study: Study) -> Judgement:
    keys = _last_layer(study)
    measured = {name: study.perplexity("table5", name) for name in study.rows("table5") if name.endswith(SECOND_LAST)}
    if not measured:
        raise Missing("table5 has no second-last layer")
    last, second = (min(found, key=found.__getitem__) for found in (keys, measured))
    ours = f"last {keys[last]:.2f}, second-last {measured[second]:.2f}"
    return says(ours, better(study, "table5", last, second))


@claim
def k_monotone(study: Study) -> Judgement:
    points = _several(neighbors(study), "k")
    return says(
        ", ".join(f"k={k} {value:.2f}" for k, value in points),
        *(better(study, "figure4", f"k{after}", f"k{before}") for (before, _), (after, _) in pairwise(points)),
    )


@claim
def k_eight(study: Study) -> Judgement:
    (largest, _), base = _several(neighbors(study), "k")[-1], study.perplexity("figure4", "base")
    eight, full = study.gain("figure4", "k8"), study.gain("figure4", f"k{largest}")
    ours = f"k=8 {signed(-eight)}, k={largest} {signed(-full)} from {base:.2f}"
    if full <= 0:
        return Judgement(ours, OPEN, "kNN gives no gain to share")
    twice = {"k8": 2, "base": -1, f"k{largest}": -1}
    return says(ours, compared(study, f"twice k8's gain over k{largest}'s", "figure4", twice, "dev"))


@claim
def lambda_domain(study: Study) -> Judgement:
    inside, outside = (study.row("figure5", name) for name in ("in-domain", "out-of-domain"))
    values = [median(row["lmbda"]["knn"]) for row in (inside, outside)]
    ours = "λ {:#.2g} in domain, {:#.2g} out of domain".format(*values)
    return says(ours, larger_lmbda(outside, inside, paired=False))


@claim
def ngram(study: Study) -> Judgement:
    orders = [name for name in study.rows("figure7") if name.startswith("order")]
    if not orders:
        raise Missing("figure7 has no n-gram order")
    best = max(orders, key=lambda name: study.gain("figure7", name))
    ours = f"n-gram {signed(-study.gain('figure7', best))}, kNN {signed(-study.gain('figure7', 'knn'))}"
    return says(ours, better(study, "figure7", "knn", best))


@claim
@memorizes
def memorizing_zero(study: Study) -> Judgement:
    point = _last_point(study)
    ours = f"{point['train_loss']:.3f} nats on {round(point['tokens'] / point['epoch']):,} tokens"
    return Judgement(ours, HELD)


@claim
@memorizes
def memorizing_mix(study: Study) -> Judgement:
    memorizing, knn = study.gain("memorizing", "memorizing"), study.gain("memorizing", "knn")
    ours = f"{signed(-memorizing)} against {signed(-knn)}"
    return says(ours, better(study, "memorizing", "knn", "memorizing"))


def _last_point(study: Study) -> dict:
    """The end of the memorizing LM's learning curve; raises Missing where there is none."""
    curve = [point for point in study.curves.get("memorizing", []) if point["train_loss"] is not None]
    if not curve:
        raise Missing("no learning curve of the memorizing LM")
    return curve[-1]


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
