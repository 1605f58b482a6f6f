"""Compare texts that the LM and the kNN-LM write with the held-out text (after Wang et al. 2023).

Each prompt is the beginning of a test document. The LM alone (λ = 0) and the kNN-LM continue it by nucleus sampling
with the same random numbers, and what the document itself goes on with is measured beside them. No text stops early:
all have the same length. MAUVE is not computed: it needs thousands of texts and a model whose features it compares.

texts.json:

    facts         prompts, prompt_tokens, words, top_p, seed, lmbda, and the folder of the second model or null
    methods       [{"name", "label", "measures"}] for "heldout", "lm" and "knn-lm"; each measure is a list, a number for
                  each prompt, in the order of the prompts
                  nats           −log p of the continuation's tokens by the second model, mean; null without one
                  repetition     share of tokens in 4-grams that occurred before in the same continuation
                  distinct1 … 4  different n-grams over all n-grams of the continuation
                  entropy1 … 4   mean entropy of p_kNN in each quarter of the continuation, nats
                  rise           entropy4 − entropy1 of p_kNN, less the same of p_LM
    differences   of each measure {"value", "low", "high"}: the mean of kNN-LM − LM over the prompts, with its 95%
                  bootstrap interval over prompts; null ends for fewer than 10 prompts
    nearer        the same of |LM − held-out text| − |kNN-LM − held-out text|, from means over prompts
    examples      the first prompts with their continuations
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from knnlm.artifacts import files, lineage, npy
from knnlm.artifacts.cli import progress
from knnlm.artifacts.files import UserError
from knnlm.beyond import texts
from knnlm.corpora import vocab
from knnlm.live import layout, sampling, terminal
from knnlm.live.layout import KnnLM
from knnlm.live.retrieval import Next, Retriever
from knnlm.models import features, model
from knnlm.scores import experiments, stats

HELD_OUT, LM, KNN_LM = "heldout", "lm", "knn-lm"
LABELS = {HELD_OUT: "Held-out text", LM: "LM", KNN_LM: "kNN-LM"}
DECIMALS = 12  # of differences: those of equal shares are zero, not what rounding leaves


@dataclass(frozen=True)
class CompareTextsConfig:
    """Compare texts that the LM and the kNN-LM write with the held-out text; writes texts.json."""

    study: Path
    """folder of a finished study, as results/smoke"""
    out: Path
    """texts.json"""
    prompts: int = 40
    """beginnings of test documents; fewer where fewer are long enough"""
    prompt_tokens: int = 32
    """tokens of each"""
    words: int = 64
    """tokens of each continuation"""
    shorten: bool = False
    """shorten both where half of the documents, or the windows, are too short for them, in place of an error"""
    top_p: float = 0.9
    """draw only from the most probable words that together have this probability; 1 draws from all"""
    seed: int = 1
    """of the draws; each prompt has draws of its own"""
    examples: int = 3
    """prompts whose continuations are kept as text"""
    output: str = "table1"
    """the experiment that the row is of"""
    row: str = "knn"
    """a row with a datastore; its first seed and its λ are taken"""

    def __post_init__(self) -> None:
        if not (0 < self.top_p <= 1 and min(self.prompts, self.prompt_tokens) >= 1 and self.examples >= 0):
            raise UserError(
                f"found --top-p {self.top_p}, --prompts {self.prompts}, --prompt-tokens {self.prompt_tokens} and "
                f"--examples {self.examples}; expected --top-p above 0 and at most 1, --prompts and --prompt-tokens "
                "from 1, --examples from 0"
            )
        if self.words < texts.QUARTERS:
            raise UserError(f"--words {self.words}: expected at least {texts.QUARTERS}, one for each quarter of a text")


class Text(NamedTuple):
    """A continuation, and what was expected before each of its n tokens."""

    tokens: list[int]
    near: list[float]  # entropy of p_kNN, nats
    lm: list[float]  # entropy of p_LM, nats


def main(config: CompareTextsConfig) -> None:
    source = layout.find(config.study, config.output, config.row)
    source.check("test")
    if config.shorten:
        config = shortened(config, source)
    prompts = beginnings(config, source)
    retriever, second = Retriever(source), second_model(source, config.output)
    terminal.choose_threads(retriever.lm)
    judge = model.load(second, features.device()) if second else None
    measured: dict[str, list[dict]] = {name: [] for name in LABELS}
    examples, words = [], vocab.load(source.vocab)
    for number, (title, prompt, rest) in enumerate(progress(prompts, "write", len(prompts), "prompt")):
        written = {HELD_OUT: along(retriever, prompt, rest)}
        for name, lmbda in ((LM, 0.0), (KNN_LM, source.lmbda)):
            written[name] = continued(config, retriever, prompt, lmbda, number)
        for name, text in written.items():
            nats = None if judge is None else surprise(judge, prompt, text.tokens)
            measured[name].append({"nats": nats} | texts.measures(*map(np.array, text)))
        if number < config.examples:
            shown = {"prompt": prompt} | {name: text.tokens for name, text in written.items()}
            examples.append({"title": title} | {name: words.detokenize(tokens) for name, tokens in shown.items()})
    columns = {name: {key: [one[key] for one in found] for key in found[0]} for name, found in measured.items()}
    facts = {name: getattr(config, name) for name in ("prompt_tokens", "words", "top_p", "seed")}
    facts |= {"prompts": len(prompts), "lmbda": source.lmbda}
    facts["second"] = None if second is None else os.path.relpath(second, config.study)
    methods = [{"name": name, "label": LABELS[name], "measures": column} for name, column in columns.items()]
    found = {"facts": facts, "methods": methods, "examples": examples}
    files.write_json(config.out, found | compared(*columns.values()))


def compared(held_out: dict, lm: dict, near: dict) -> dict[str, dict]:
    """The kNN-LM's texts against the LM's: differences, and how much nearer they are to held-out text.

    Each has a list for each measure, with one number a prompt.
    """
    found: dict[str, dict] = {"differences": {}, "nearer": {}}
    for key in (key for key in lm if None not in lm[key]):
        values = tuple(np.array(one[key]) for one in (held_out, lm, near))  # [P] each
        found["differences"][key] = difference(lambda base, value: value - base, *values[1:])
        found["nearer"][key] = difference(texts.nearer, *values)
    return found


def shortened(config: CompareTextsConfig, source: KnnLM) -> CompareTextsConfig:
    """Prompts and continuations that half of the test documents and the study's windows have room for."""
    corpus, needed = source.row["corpus"], config.prompt_tokens + config.words
    stream, documents = npy.open_stream(source.tokens(corpus, "test"), source.documents(corpus, "test"))
    most = min(source.windows.length - 1, int(np.median(np.diff([*documents, len(stream)]))))
    if most >= needed:
        return config
    words = max(texts.QUARTERS, most * config.words // needed)
    return replace(config, words=words, prompt_tokens=max(1, most - words))


def beginnings(config: CompareTextsConfig, source: KnnLM) -> list[tuple[str, list[int], list[int]]]:
    """Of each chosen test document: title, prompt, and the tokens that follow it."""
    needed = config.prompt_tokens + config.words
    if 1 + needed > source.windows.length:
        raise UserError(
            f"found --prompt-tokens {config.prompt_tokens} and --words {config.words}, expected at most "
            f"{source.windows.length - 1} together: the study's windows have {source.windows.length} tokens"
        )
    corpus = source.row["corpus"]
    stream, documents = npy.open_stream(source.tokens(corpus, "test"), source.documents(corpus, "test"))
    found, titles = texts.chosen(documents, len(stream), config.prompts, needed), source.titles(corpus, "test")
    if not len(found):
        raise UserError(
            f"{source.tokens(corpus, 'test')}: no document has {needed} tokens, which --prompt-tokens "
            f"{config.prompt_tokens} and --words {config.words} need together: ask for fewer"
        )
    cuts = [(titles[one], stream[documents[one] : documents[one] + needed].tolist()) for one in found]
    return [(title, cut[: config.prompt_tokens], cut[config.prompt_tokens :]) for title, cut in cuts]


def second_model(source: KnnLM, output: str) -> Path | None:
    """Another LM of the study with the same vocabulary, to read texts with; None where it has none.

    It is the next seed of the row's own model, or else the one that is best on dev among the LMs of the same experiment
    and then of the others that are evaluated on the row's corpus.
    """
    others = [path for path in source.paths["model"] if path != source.model]
    if others:
        return others[0]
    known, shared = [], lineage.of(source.model).get("vocab")
    for path in sorted((source.folder / "experiments").glob("*.json")):
        if path.name.endswith(".meta.json"):
            continue
        study = experiments.load([path])
        for name, rows in ((name, study.rows(name)) for name in study.experiments):
            for row in rows.values():
                if row["corpus"] != source.row["corpus"] or row["lmbda"] or row["datastore"]:
                    continue
                folder = study.paths(name, row["name"])["model"][0]
                if folder != source.model and lineage.of(folder).get("vocab") == shared:
                    known.append((name != output, study.perplexity(name, row["name"]), folder))
    return min(known)[2] if known else None


def continued(config: CompareTextsConfig, retriever: Retriever, prompt: list[int], lmbda: float, number: int) -> Text:
    """What is drawn after prompt `number`."""
    drawn = sampling.draw(retriever, prompt, lmbda, config.words, config.top_p, seed=(config.seed, number))
    steps = [(step.word, *entropies(step.next)) for step in drawn]
    return Text(*map(list, zip(*steps, strict=True)))


def along(retriever: Retriever, prompt: list[int], text: list[int]) -> Text:
    """`text` as it stands after `prompt`."""
    inputs = [retriever.lm.eos, *prompt, *text[:-1]]
    found = [entropies(expected) for expected in retriever.along(inputs, len(prompt))]
    return Text(text, *map(list, zip(*found, strict=True)))


def entropies(expected: Next) -> tuple[float, float]:
    return texts.entropy(expected.knn), texts.entropy(expected.lm)


@torch.inference_mode()
def surprise(lm: model.LanguageModel, prompt: list[int], text: list[int]) -> float:
    """Mean −log p of the tokens of `text` after `prompt`, nats a token."""
    inputs = torch.tensor([[lm.eos, *prompt, *text[:-1]]], device=features.device())
    logprob = lm.target_logprob(lm(inputs)[0, len(prompt) :], torch.tensor(text))
    return float(-logprob.double().mean())


def difference(statistic: Callable[..., np.ndarray], *values: np.ndarray) -> dict[str, float | None]:
    """A function of means over prompts, [P] each, and its interval; no interval for too few prompts."""
    low, high = stats.of_means(statistic, *values) if len(values[0]) >= stats.FEWEST else (None, None)
    found = {"value": float(statistic(*(one.mean() for one in values))), "low": low, "high": high}
    return {name: end if end is None else round(end, DECIMALS) + 0.0 for name, end in found.items()}
