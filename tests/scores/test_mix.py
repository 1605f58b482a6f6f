"""`knnlm mix`: perplexities of files from anywhere, by hand."""

from pathlib import Path

import numpy as np
import pytest

from knnlm.artifacts import description
from knnlm.artifacts.files import UserError
from knnlm.scores import mix

LM, KNN, CACHE = np.array([0.5, 0.1, 0.2, 0.4]), np.array([0.1, 0.9, 0.0, 0.4]), np.array([0.0, 0.2, 0.7, 0.1])


def saved(folder: Path, **probabilities: np.ndarray) -> list[Path]:
    with np.errstate(divide="ignore"):
        for name, values in probabilities.items():
            np.save(folder / f"{name}.npy", np.log(values).astype(np.float32))
    return [folder / f"{name}.npy" for name in probabilities]


def printed(capsys: pytest.CaptureFixture, *arguments: object, **options: object) -> list[str]:
    mix.main(mix.MixConfig(*arguments, **options))
    return capsys.readouterr().out.splitlines()


def perplexity(probabilities: np.ndarray) -> str:
    return f"perplexity {np.exp(-np.log(probabilities).mean()):.6g}, "


def test_given_weights(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lm, knn, cache = saved(tmp_path, lm=LM, knn=KNN, cache=CACHE)
    targets, base, mixed = printed(capsys, lm, (knn,), (0.25,))
    assert targets == "4 targets" and base.startswith(f"LM: {perplexity(LM)}")
    assert mixed.startswith(f"λ = 0.25: {perplexity(0.25 * KNN + 0.75 * LM)}")
    lines = printed(capsys, lm, (knn, cache), (0.2, 0.3))
    assert lines[-1].startswith(f"λ = 0.2, 0.3: {perplexity(0.2 * KNN + 0.3 * CACHE + 0.5 * LM)}")
    assert lines[3] == f"{cache}: perplexity inf, inf nats a token" and len(lines) == 5
    assert printed(capsys, lm, (knn,), (1.0,))[-1] == "λ = 1: perplexity inf, inf nats a token"


def test_tuned_weights_are_those_of_the_other_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lm, knn, dev_lm, dev_knn = saved(tmp_path, lm=LM, knn=KNN, dev_lm=LM[::-1] / 2, dev_knn=np.sqrt(KNN))
    grid = np.linspace(0, 1, 10001)[:-1, None]
    best = float(grid[np.log(grid * np.sqrt(KNN) + (1 - grid) * LM[::-1] / 2).mean(1).argmax()][0])
    last = printed(capsys, lm, (knn,), tune=(dev_lm, dev_knn))[-1]
    lmbda = float(last.split()[2].rstrip(":"))
    assert lmbda == pytest.approx(best, abs=3e-4)
    assert float(last.split()[4].rstrip(",")) == pytest.approx(
        np.exp(-np.log(best * KNN + (1 - best) * LM).mean()), rel=1e-3
    )


def test_weights_of_two_components_are_in_the_order_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    random = np.random.default_rng(2).uniform(0.05, 0.9, (3, 60))
    dev = {"dev_lm": random[0], "dev_knn": random[1] ** 0.3, "dev_cache": random[2] ** 0.8}
    files = saved(tmp_path, lm=LM, knn=KNN, cache=CACHE, **dev)
    grid = [(a / 100, b / 100) for a in range(101) for b in range(101 - a)]
    parts = list(dev.values())
    best = max(grid, key=lambda w: np.log(w[0] * parts[1] + w[1] * parts[2] + (1 - w[0] - w[1]) * parts[0]).mean())
    last = printed(capsys, files[0], tuple(files[1:3]), tune=tuple(files[3:]))[-1]
    found = [float(word.strip(",:")) for word in last.split()[2:4]]
    assert found == pytest.approx(best, abs=0.011) and abs(best[0] - best[1]) > 0.1


def test_intervals_are_over_documents(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    values = np.random.default_rng(0).uniform(0.1, 0.9, 240)
    lm, knn = saved(tmp_path, lm=values, knn=values[::-1])
    np.save(tmp_path / "documents.npy", np.arange(0, 240, 20))
    low, high = (
        printed(capsys, lm, (knn,), (0.0,), documents=tmp_path / "documents.npy")[1]
        .split("[")[1]
        .split("]")[0]
        .split(", ")
    )
    assert float(low) < np.exp(-np.log(values).mean()) < float(high)
    assert "[" not in printed(capsys, lm, (knn,), (0.0,))[1]


def test_weights_may_sum_to_1_but_for_rounding(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = (0.34, 0.56, 0.1)
    assert sum(weights) > 1
    lm, *others = saved(tmp_path, lm=LM, a=KNN + 0.1, b=CACHE + 0.1, c=LM)
    mixed = weights[0] * (KNN + 0.1) + weights[1] * (CACHE + 0.1) + weights[2] * LM
    assert printed(capsys, lm, tuple(others), weights)[-1].startswith(f"λ = 0.34, 0.56, 0.1: {perplexity(mixed)}")


@pytest.mark.parametrize("dropped", [None, 0, 22083])
def test_tokens_that_were_never_scored_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture, dropped) -> None:
    (tmp_path / "lm").mkdir()
    (lm,), (knn,) = saved(tmp_path / "lm", logprob=LM), saved(tmp_path, knn=KNN)
    description.write_meta(lm.parent, "evaluate", {}, {}, **({} if dropped is None else {"dropped": dropped}))
    first = printed(capsys, lm, (knn,), (0.5,))[0]
    more = "; 22,083 more, in lines longer than the model's positions, are not scored" if dropped else ""
    assert first == f"4 targets{more}"
    np.save(tmp_path / "documents.npy", np.array([0, 2]))
    if dropped:
        with pytest.raises(UserError, match=r"--documents: .*logprob.npy leaves 22,083 tokens of the text out"):
            printed(capsys, lm, (knn,), (0.5,), documents=tmp_path / "documents.npy")
    else:
        assert printed(capsys, lm, (knn,), (0.5,), documents=tmp_path / "documents.npy")[0] == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--lmbda, --tune: give the weights, or the files of dev"),
        ({"lmbda": (0.2,), "tune": ("lm", "knn")}, "--lmbda, --tune: give the weights"),
        ({"lmbda": (0.2, 0.3)}, "--lmbda: found 2 weights, expected 1"),
        ({"lmbda": (1.2,)}, "--lmbda: found 1.2, expected numbers from 0 whose sum is at most 1"),
        ({"lmbda": (float("nan"),)}, "--lmbda: found nan"),
        ({"tune": ("lm",)}, "--tune: found 1 files, expected 2"),
        ({"tune": ("lm", "knn", "knn")}, "--tune: found 3 files, expected 2"),
        ({"lmbda": (0.2,), "knn": ("short",)}, r"short.npy: found 3 targets, .*lm.npy has 4"),
        ({"lmbda": (0.2,), "knn": ("positive",)}, r"positive.npy: found 0.693, expected log-probabilities"),
        ({"lmbda": (0.2,), "knn": ("nan",)}, "nan.npy: found NaN"),
        ({"lmbda": (0.2,), "knn": ("none",)}, "none.npy: no such file"),
        ({"lmbda": (0.2,), "documents": "starts"}, "starts.npy: expected ascending positions from 0 below 4"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(tmp_path: Path, options: dict, message: str) -> None:
    saved(tmp_path, lm=LM, knn=KNN, short=LM[:3], positive=LM * 4, nan=LM * np.nan)
    np.save(tmp_path / "starts.npy", np.array([0, 4]))
    given = {"knn": ("knn",)} | options
    for name in ("knn", "tune"):
        given[name] = tuple(tmp_path / f"{one}.npy" for one in given.get(name, ()))
    if "documents" in given:
        given["documents"] = tmp_path / f"{given['documents']}.npy"
    with pytest.raises(UserError, match=message):
        mix.main(mix.MixConfig(tmp_path / "lm.npy", **given))
