"""The examples of docs/extend.md run, and do what the page says."""

import re

import numpy as np
import pytest
import tinystudy
from conftest import ROOT

from knnlm.artifacts import npy
from knnlm.beyond import diagnostics, mixers, signals
from knnlm.live import layout
from knnlm.scores import mixture

PAGE = (ROOT / "docs/extend.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> layout.KnnLM:
    return layout.find(tinystudy.write(tmp_path_factory.mktemp("results") / "tiny"))


@pytest.fixture(scope="module")
def splits(source: layout.KnnLM) -> list[signals.Signals]:
    return [signals.load(source, split) for split in ("dev", "test")]


def example(name: str) -> dict:
    (code,) = re.findall(rf'^```python title="{name}"\n(.*?)^```', PAGE, re.M | re.S)
    names: dict = {"__name__": name}
    exec(compile(code, f"docs/extend.md, {name}", "exec"), names)
    return names


def test_the_mixer_is_no_worse_than_one_lambda_on_dev(splits: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixers, "MIXERS", dict(mixers.MIXERS))
    example("mixer")
    found, constant = mixers.find("near_and_far")(*splits, share=0.3), mixers.constant(*splits)
    assert found.dev.mean() >= constant.dev.mean() - 1e-6 and found.test.shape == splits[1].lm.shape
    near = mixers.nearest(splits[0])
    assert (near < found.facts["edge"]).mean() == pytest.approx(0.3, abs=0.01)
    assert len(re.search(r"@mixer\n(.*?)```", PAGE, re.S)[1].splitlines()) <= 15


def test_the_scorer_counts(source: layout.KnnLM, splits: list) -> None:
    train = np.asarray(npy.open_array(source.tokens(source.store["corpus"], "train")))
    size = int(train.max()) + 2
    found = example("scorer")["unigram"](train, np.arange(size), size)
    assert np.exp(found).sum() == pytest.approx(1) and np.exp(found[-1]) == pytest.approx(1 / (len(train) + size))
    logprob = [example("scorer")["unigram"](train, split.tokens, size) for split in splits]
    weights = mixture.tune([logprob[0]], splits[0].lm)
    assert mixture.perplexity(mixture.mix(weights, [logprob[0]], splits[0].lm)) <= mixture.perplexity(splits[0].lm)


def test_the_diagnostic_divides_all_tokens(splits: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "DIAGNOSTICS", dict(diagnostics.DIAGNOSTICS))
    example("diagnostic")
    groups = dict(diagnostics.DIAGNOSTICS["hits"].groups(splits[1]))
    assert np.sum(list(groups.values()), axis=0).tolist() == [1] * len(splits[1].tokens)
    hits = (splits[1].values[:] == splits[1].tokens[:, None]).sum(1)
    assert groups["one"].tolist() == (hits == 1).tolist() and groups["none"].any() and groups["several"].any()
