"""Next-word distributions, what is drawn from them, and what query and generate print."""

import io
import json
import os
import pty
import select
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tinystudy
from conftest import ROOT

from knnlm.artifacts import files, npy
from knnlm.datastores import ann, neighbors
from knnlm.live import generate, layout, passages, query, sampling, terminal
from knnlm.live.retrieval import Nearest, Next, Retriever
from knnlm.outputs import illustrate, scored
from knnlm.settings import IndexSettings


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tinystudy.write(tmp_path_factory.mktemp("results") / "tiny")


@pytest.fixture(scope="module")
def retriever(study):
    return Retriever(layout.find(study))


@pytest.mark.parametrize("context", ["", "the quick brown", "the lazy dog " * 60])
def test_full_next_word_distributions_sum_to_one(study, retriever, context):
    words = passages.encode(passages.Passages(layout.find(study)).vocab, context)
    found = retriever.next(words)
    for distribution in (found.lm, found.knn, found.mixed(0), found.mixed(0.3), found.mixed(1)):
        assert distribution.shape == found.lm.shape and distribution.min() >= 0
        assert distribution.sum() == pytest.approx(1, abs=1e-6)
    assert found.nearest.weights.sum() == pytest.approx(1)


def test_a_live_query_finds_what_the_study_found(study, retriever):
    source = layout.find(study)
    stream, found = npy.open_array(source.tokens("fox", "test")), neighbors.load(source.neighbors("test"))
    for position in (5, 20, 31):  # in the first window, whose context begins with the stream
        live = retriever.next(stream[:position].tolist())
        assert live.nearest.ids.tolist() == found.ids[position].tolist()
        stored = [npy.open_array(path)[position] for path in (source.lm("test"), source.knn("test"))]
        target = int(stream[position])
        assert [live.lm[target], live.knn[target]] == pytest.approx(np.exp(stored).tolist(), rel=1e-3)


def test_a_live_query_weighs_neighbors_at_the_temperature_that_dev_chose(study, tmp_path):
    moved = shutil.copytree(study, tmp_path / "tuned")
    tinystudy.tune_temperature(moved, [0.05, 40])
    source = layout.find(moved)
    temperature = source.store["temperature"]
    assert temperature in (0.05, 40) and source.row["datastore"]["temperature"] == [temperature]
    assert source.knn("test").name == f"exact-k16-t{temperature:g}.npy"
    stream, stored, of_study = npy.open_array(source.tokens("fox", "test")), npy.open_array(source.knn("test")), 20
    live = Retriever(source).next(stream[:of_study].tolist())
    assert live.knn[int(stream[of_study])] == pytest.approx(np.exp(stored[of_study]), rel=1e-3)
    text = scored.load(source)
    shares = np.exp(text.log_shares(of_study))[text.values[of_study] == stream[of_study]]
    assert shares.sum() == pytest.approx(np.exp(stored[of_study]), rel=1e-3)


def test_temperature_and_nucleus_by_hand():
    p = np.array([0.5, 0.3, 0.2])
    assert sampling.tempered(p, 0.5) == pytest.approx(np.array([0.25, 0.09, 0.04]) / 0.38)
    assert sampling.tempered(p, 0).tolist() == [1, 0, 0]
    assert sampling.nucleus(p, 0.5).tolist() == [1, 0, 0]
    assert sampling.nucleus(p, 0.51) == pytest.approx([0.625, 0.375, 0])
    assert sampling.nucleus(p, 1) == pytest.approx(p)


def printed(capsys, study, **settings) -> str:
    generate.main(generate.GenerateConfig(study=study, prompt="the quick", words=12, **settings))
    return capsys.readouterr().out


@pytest.mark.parametrize("mode", generate.MODES)
def test_the_same_seed_gives_the_same_text_and_another_another(study, capsys, mode):
    text = printed(capsys, study, mode=mode, top_p=1.0)
    assert text.startswith("the quick ")
    assert printed(capsys, study, mode=mode, top_p=1.0) == text
    assert printed(capsys, study, mode=mode, top_p=1.0, seed=2) != text


def test_explain_tells_where_each_word_came_from(study, capsys):
    lines = printed(capsys, study, explain=True, mode="knn", seed=2).splitlines()  # whose text does not end by itself
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("word ")) + 1 :]
    assert len(table) == 12 and all("kNN (100%, " in line and "(Story <" in line for line in table)


def test_query_prints_neighbors_with_their_targets(study, capsys):
    query.main(query.QueryConfig(study=study, context="the quick brown fox", neighbors=3))
    out = capsys.readouterr().out
    assert "the quick brown fox …" in out and "mixture, λ = " in out
    assert sum("[" in line and "(Story <" in line for line in out.splitlines()) == 3


def test_query_as_json_has_the_numbers_of_the_distributions(study, retriever, capsys):
    query.main(query.QueryConfig(study=study, context="the quick brown", json=True, neighbors=4, words=5))
    answer = json.loads(capsys.readouterr().out)
    source = layout.find(study)
    train = passages.Passages(source)
    found = retriever.next(passages.encode(train.vocab, "the quick brown"))
    ids = {name: i for i, name in enumerate(train.vocab.tokens(range(len(found.lm))))}
    assert (answer["context"], answer["lmbda"]) == ("the quick brown", source.lmbda)
    assert answer["tokens"] == ["the", "quick", "brown"]
    for name, p in {"mixture": found.mixed(source.lmbda), "lm": found.lm, "knn": found.knn}.items():
        best = sorted(p[p > 0], reverse=True)[:5]
        assert [np.exp(one["logprob"]) for one in answer["next"][name]] == pytest.approx(best, rel=1e-5)
        for one in answer["next"][name]:
            assert p[ids[one["token"]]] == pytest.approx(np.exp(one["logprob"]), rel=1e-5)
    assert len(answer["neighbors"]) == 4
    order = np.argsort(-found.nearest.weights, kind="stable")
    for one, i in zip(answer["neighbors"], order, strict=False):
        assert one["weight"] == pytest.approx(found.nearest.weights[i], rel=1e-5)
        assert one["distance"] == pytest.approx(found.nearest.distances[i], rel=1e-4)
        assert ids[one["target"]] == found.nearest.values[i]


@pytest.mark.parametrize("flag", [None, "-"])
def test_without_a_prompt_each_line_of_standard_input_is_one(study, capsys, monkeypatch, flag):
    lines = "the quick\n\nthe lazy dog\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    query.main(query.QueryConfig(study=study, context=flag, json=True))
    assert [json.loads(line)["context"] for line in capsys.readouterr().out.splitlines()] == [
        "the quick",
        "the lazy dog",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    generate.main(generate.GenerateConfig(study=study, prompt=flag, words=3, json=True))
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["prompt"] for answer in answers] == ["the quick", "the lazy dog"]
    assert all(len(answer["words"]) == 3 and not answer["ended"] for answer in answers)


def test_generated_words_as_json_are_those_of_the_text(study, capsys):
    text = printed(capsys, study, seed=3).strip()
    answer = json.loads(printed(capsys, study, seed=3, json=True))
    assert answer["text"] == text and answer["seed"] == 3 and answer["mode"] == "mixture"
    for word in answer["words"]:
        lm, knn, mixture = (
            np.exp(-np.inf if (v := word["logprob"][n]) is None else v) for n in ("lm", "knn", "mixture")
        )
        assert mixture == pytest.approx(answer["lmbda"] * knn + (1 - answer["lmbda"]) * lm, rel=1e-6)
        assert word["from_knn"] == pytest.approx(answer["lmbda"] * knn / mixture, rel=1e-6)
        assert len(word["neighbors"]) == 3


def test_a_text_stops_after_the_token_that_ends_it(study, retriever):
    train = passages.Passages(layout.find(study))
    prompt = passages.encode(train.vocab, "the quick")
    words = [step.word for step in sampling.draw(retriever, prompt, 0.3, 40, top_p=1.0)]
    assert len(words) == 40
    end = words[7]
    stopped = [step.word for step in sampling.draw(retriever, prompt, 0.3, 40, top_p=1.0, end=end)]
    assert stopped == words[: words.index(end) + 1]


def near(stream, ids, weights):
    ids = np.array(ids)
    return Nearest(ids, stream[ids], np.ones(len(ids)), np.array(weights))


def test_a_text_of_words_ends_where_its_neighbors_lines_end_their_documents(study):
    train = passages.Passages(layout.find(study))
    eos, word = train.vocab.eos, 7
    train.stream = np.array([5, eos, 6, eos, 7, eos, 8, eos, 9, eos], np.uint32)
    train.documents = np.array([0, 4, 8])  # of two lines each, the last of one
    inner, last = (1, 5), (3, 7, 9)
    for ids, weights, ended in (
        (last, (0.1, 0.1, 0.1), True),
        (inner, (0.5, 0.5), False),
        ((*inner, *last), (0.1, 0.1, 0.1, 0.1, 0.1), True),
        ((*inner, *last), (0.2, 0.2, 0.1, 0.1, 0.1), False),
        ((0, 2, 4), (0.4, 0.3, 0.3), False),
    ):
        assert train.ends(eos, near(train.stream, ids, weights)) is ended
        assert not train.ends(word, near(train.stream, ids, weights))
    train.vocab = SimpleNamespace(eos=eos)  # of subwords, where the token ends documents only
    assert train.ends(eos, near(train.stream, inner, (0.5, 0.5)))


def test_generate_stops_at_the_end_of_a_text(study, capsys):
    """The stories have one line each, so that every end of a line is one of a text."""
    ended = []
    for seed in range(1, 7):
        drawn = {"mode": "knn", "words": 60, "top_p": 1.0, "seed": seed}
        generate.main(generate.GenerateConfig(study=study, prompt="the", json=True, **drawn))
        answer = json.loads(capsys.readouterr().out)
        words = [word["token"] for word in answer["words"]]
        assert answer["ended"] == ("</s>" in words) and "</s>" not in words[:-1]
        assert "\n" not in answer["text"] and (answer["ended"] or len(words) == 60)
        ended.append(answer["ended"])
    assert any(ended)


def test_words_that_the_vocabulary_lacks_are_named(study, capsys):
    query.main(query.QueryConfig(study=study, context="the zorgian fox, and zorgian bears", json=True))
    out, err = capsys.readouterr()
    assert json.loads(out)["unknown"] == ["zorgian", ",", "and", "bears"]
    assert "not in the vocabulary, read as unknown: zorgian , and bears\n" in err
    generate.main(generate.GenerateConfig(study=study, prompt="the quick fox", words=2, json=True))
    out, err = capsys.readouterr()
    assert json.loads(out)["unknown"] == [] and "vocabulary" not in err


@pytest.mark.parametrize("text", ["", "  \n", "caf\udce9"])
def test_a_prompt_without_text_is_one_clear_line(study, monkeypatch, text):
    with pytest.raises(files.UserError, match=r"^--prompt: (empty; give|'caf.*' is not UTF-8)"):
        list(terminal.prompts(text, "--prompt"))
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    with pytest.raises(files.UserError, match=r"^standard input: (no line with text|'caf.*' is not UTF-8)"):
        list(terminal.prompts(None, "--prompt"))


def test_colors_are_for_terminals_without_no_color(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.painted("fox", "knn") == "fox"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert terminal.painted("fox", "knn") == "\x1b[33mfox\x1b[0m"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert terminal.painted("fox", "knn") == "fox"


class Typed:
    """A verb in a pseudo-terminal, as someone uses it who types."""

    def __init__(self, *arguments, **environment):
        self.main, follower = pty.openpty()
        command = [sys.executable, "-m", "knnlm", *map(str, arguments)]
        environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), **environment}
        self.process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
        os.close(follower)
        self.seen = ""

    def until(self, sign):
        """What came on the screen up to `sign`, since the last one."""
        while sign not in self.seen:
            assert select.select([self.main], [], [], 600)[0], self.seen
            try:
                self.seen += os.read(self.main, 4096).decode(errors="replace")
            except OSError:  # Linux's end of a pseudo-terminal
                raise AssertionError(self.seen) from None
        found, _, self.seen = self.seen.partition(sign)
        return found

    def type(self, keys):
        os.write(self.main, keys.encode())


@pytest.mark.parametrize("no_color", ["", "1"])
def test_without_a_prompt_someone_types_with_a_history_and_color(study, no_color):
    typed = Typed("query", "--study", study, "--neighbors", "2", NO_COLOR=no_color, OMP_NUM_THREADS="1")
    assert "Type a context" in typed.until("> ")
    typed.type("the quick brown\n")
    first = typed.until("neighbors in")
    assert "the quick brown …" in first and ("\x1b[33m[" in first) is (not no_color)
    typed.until("> ")
    typed.type("\x1b[A\x7f\x7f\x7f\x7f\x7flazy\n")  # arrow up, backspaces
    assert "the quick lazy …" in typed.until("neighbors in")
    typed.until("> ")
    typed.type("\x04")  # Ctrl-D
    assert typed.process.wait(600) == 0
    os.close(typed.main)


def test_a_word_costs_one_step_and_a_full_window_is_refilled_with_its_last_half(retriever, monkeypatch):
    read, forward = [], retriever.lm.forward

    def counted(tokens, *rest):
        read.append(tokens.shape[1])
        return forward(tokens, *rest)

    monkeypatch.setattr(retriever.lm, "forward", counted)
    longest, text = retriever.longest, retriever.begin()
    tokens = [5 + i % 7 for i in range(longest + 3)]
    retriever.read(text, tokens[: longest - 2])
    for i in range(longest - 2, longest):
        retriever.read(text, [tokens[i]])
    found = retriever.read(text, [tokens[longest]])
    assert read == [longest - 2, 1, 1, longest // 2]
    again = retriever.after(tokens[longest + 1 - longest // 2 : longest + 1])
    np.testing.assert_allclose(found.lm, again.lm, rtol=1e-4, atol=1e-7)
    assert found.nearest.ids.tolist() == again.nearest.ids.tolist()


def test_step_by_step_is_as_at_once(retriever):
    tokens = [5 + (3 * i) % 11 for i in range(20)]
    text = retriever.begin()
    for i, token in enumerate(tokens):
        stepped = retriever.read(text, [token])
        whole = retriever.after(tokens[: i + 1])
        np.testing.assert_allclose(stepped.lm, whole.lm, rtol=1e-4, atol=1e-7)
        assert stepped.nearest.ids.tolist() == whole.nearest.ids.tolist()


@pytest.mark.parametrize(
    ("environment", "size", "asked", "expected"),
    [
        ("", 10, None, 1),
        ("2", 10, None, 2),
        ("", 10**9, None, None),
        ("2", 10**9, None, 2),
        ("", 10, 2, 2),
        ("1", 10, 2, 2),
        ("2", 10**9, 1, 1),
    ],
)
def test_small_models_take_one_thread_unless_the_user_says_how_many(monkeypatch, environment, size, asked, expected):
    chosen = []
    monkeypatch.setattr(terminal.torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(terminal.numba, "set_num_threads", chosen.append)
    monkeypatch.setattr(terminal.ann, "use_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    model = SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: size)])
    monkeypatch.setattr(terminal.numba.config, "NUMBA_NUM_THREADS", 4)
    terminal.choose_threads(model, asked)
    assert chosen == ([expected] * 3 if expected else [])


def test_a_number_of_threads_below_one_is_refused(tmp_path):
    for config in (generate.GenerateConfig, query.QueryConfig):
        with pytest.raises(files.UserError, match="--threads 0: expected a number from 1"):
            config(study=tmp_path, threads=0)


def test_a_folder_that_is_no_study_is_one_clear_line(tmp_path):
    with pytest.raises(files.UserError, match="no experiments"):
        layout.find(tmp_path)


def test_what_a_study_lacks_is_said(tmp_path):
    def said(folder, output="table1"):
        with pytest.raises(files.UserError) as error:
            layout.find(folder, output)
        assert "\n" not in str(error.value) and str(error.value).startswith(f"--study {folder}: ")
        return str(error.value).removeprefix(f"--study {folder}: ")

    unfinished, made = tmp_path / "unfinished", tmp_path / "made"
    assert said(tmp_path / "typo") == "no such folder; give results/STUDY"
    (unfinished / "models").mkdir(parents=True)
    assert said(unfinished).startswith("no experiments/table1.json in it yet: the study is not finished")
    for name in ("figure4.json", "figure4.json.meta.json", "table2.json"):
        files.write_json(made / "experiments" / name, {})
    assert said(made).startswith("no experiments/table1.json in it; --output may be figure4, table2, or run")
    assert said(tmp_path / "typo") == f"no such folder; studies beside it: {made}"


def test_a_study_that_was_moved_is_read_where_it_lies_now(study, tmp_path):
    source = layout.find(shutil.copytree(study, tmp_path / "elsewhere"))
    places = [source.model, source.vocab, *source.keys, *source.indexes, source.cache("test")]
    for split in ("dev", "test"):
        places += [source.lm(split), source.knn(split), source.neighbors(split), source.tokens("fox", split)]
    places += [source.tokens("fox", "train"), source.documents("fox", "train")]
    assert all(place.exists() and place.is_relative_to(tmp_path / "elsewhere") for place in places)
    assert len(source.keys) == len(source.indexes) == 2 and len(source.titles("fox", "train")) == 60
    assert (source.nprobe, source.windows.context) == (2, 32)


def test_an_experiment_that_names_no_paths_is_to_be_interpolated_again(tmp_path):
    row = {"name": "knn", "seeds": [1], "datastore": {"corpus": "fox"}}
    files.write_json(tmp_path / "experiments/table1.json", {"experiment": "table1", "rows": [row]})
    with pytest.raises(files.UserError, match="names no paths of row knn; interpolate again"):
        layout.find(tmp_path)


def test_figure_1_is_a_query_of_the_study_with_its_own_numbers(study, tmp_path):
    illustrate.main(illustrate.IllustrateConfig(study=study, out=tmp_path / "figure1.json"))
    query, source = files.read_json(tmp_path / "figure1.json"), layout.find(study)
    word = next(word for word in query["words"] if word["word"] == query["target"])
    stored = [np.exp(npy.open_array(path)[query["position"]]) for path in (source.lm("test"), source.knn("test"))]
    assert [word["lm"], word["knn"]] == pytest.approx(stored, rel=2e-3)
    assert word["mixture"] == pytest.approx(query["lmbda"] * word["knn"] + (1 - query["lmbda"]) * word["lm"], rel=1e-6)
    assert len(query["neighbors"]) == 5


def test_figure_1_has_the_likeliest_words_of_each_distribution(monkeypatch):
    lm, knn = np.array([0.3, 0.1, 0.25, 0.2, 0.1, 0.05]), np.array([0.0, 0.6, 0.01, 0.09, 0.1, 0.2])
    monkeypatch.setattr(illustrate, "spelled", lambda train, word: "abcdef"[word])
    shown = illustrate.words(
        SimpleNamespace(lm=lm, knn=knn, mixed=lambda lmbda: lmbda * knn + (1 - lmbda) * lm), 0.5, None, 2, 4
    )
    assert "".join(one["word"] for one in shown) == "bacfe"  # by the mixture: b and a, kNN's b and f, the LM's a and c
    assert [one["lm"] for one in shown] == [0.1, 0.3, 0.25, 0.05, 0.1]


SEEDS = [5, 3, 8]


@pytest.fixture
def seeded(tmp_path):
    """A row of three seeds, each with paths and settings of its own, and Table 1's cache of two of them."""
    splits = ("dev", "test")
    parts = {
        part: {split: [tmp_path / f"{part}-{split}-{seed}" for seed in SEEDS] for split in splits}
        for part in ("lm", "knn", "neighbors")
    }
    paths = {"model": [tmp_path / f"model-{seed}" for seed in SEEDS], **parts}
    row = {"name": "knn", "model": "fox", "corpus": "fox", "seeds": SEEDS, "lmbda": {"knn": [0.5, 0.3, 0.8]}}
    row["datastore"] = {"k": 4, "temperature": [50.0, 30.0, 80.0]}
    cached = {"cache": {split: [f"../{split}-{seed}.npy" for seed in (8, 3)] for split in splits}}
    table = {"name": "cache", "model": "fox", "corpus": "fox", "seeds": [8, 3]}
    files.write_json(
        tmp_path / "experiments/table1.json", {"experiment": "table1", "rows": [table], "paths": {"cache": cached}}
    )
    return lambda seed, **changes: layout.KnnLM(tmp_path, row | changes, paths, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_seed_has_its_own_paths_weight_and_temperature(seeded, seed):
    source = seeded(seed)
    assert (source.model.name, source.lmbda, source.store["temperature"]) == (f"model-{seed}", seed / 10, seed * 10)
    for split in ("dev", "test"):
        found = [source.lm(split), source.knn(split), source.neighbors(split)]
        assert [path.name for path in found] == [f"{part}-{split}-{seed}" for part in ("lm", "knn", "neighbors")]
        cache = source.cache(split)
        assert cache is None if seed == 5 else cache.name == f"{split}-{seed}.npy"
    assert seeded(seed, corpus="other").cache("test") is None and seeded(seed, model="other").cache("test") is None
    assert seeded(seed, datastore={"k": 4, "temperature": 7.0}).store["temperature"] == 7


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("distance", ["exact", "quantized"])
def test_a_live_query_is_weighed_as_brute_force_over_all_shards(metric, distance):
    """Shuffled ids in two shards, k below and beyond a shard's size, two temperatures; words of one shard are few."""
    rng = np.random.default_rng(4)
    keys, ids = rng.standard_normal((30, 8)).astype(np.float16), rng.permutation(90)[:30]
    values, shards = rng.integers(0, 5, 30).astype(np.uint32), []
    for part in (slice(0, 9), slice(9, 30)):
        index = ann.train(keys.astype(np.float32), IndexSettings(factory="Flat", metric=metric))
        ann.add(index, keys[part])
        shards.append((index, ids[part], values[part], keys[part] if distance == "exact" else None))
    retriever = object.__new__(Retriever)
    retriever.shards = shards
    for k, temperature in ((4, 1.0), (15, 0.5), (30, 5.0)):
        retriever.store = {"k": k, "temperature": temperature, "distance": distance}
        query = rng.standard_normal(8).astype(np.float32)
        exact = keys.astype(float)
        near = ((exact - query) ** 2).sum(1) if metric == "l2" else -exact @ query
        order = np.lexsort((ids, near))[:k]
        found = retriever.nearest(query)
        assert found.ids.tolist() == ids[order].tolist() and found.values.tolist() == values[order].tolist()
        assert found.distances == pytest.approx(near[order], rel=1e-4, abs=1e-5)
        weights = np.exp(-near[order] / temperature)
        assert found.weights == pytest.approx(weights / weights.sum(), rel=1e-4)


@pytest.mark.parametrize(("temperature", "top_p", "seed"), [(1.0, 1.0, 1), (0.4, 1.0, 2), (2.5, 0.6, 1), (1.0, 0.3, 7)])
def test_words_are_drawn_at_the_temperature_from_the_most_probable_by_the_seed(temperature, top_p, seed):
    lm, near, lmbda = np.array([0.1, 0.4, 0.3, 0.2]), np.array([0.7, 0.0, 0.2, 0.1]), 0.25
    reader = SimpleNamespace(lm=SimpleNamespace(eos=2), begin=lambda: None, read=lambda *_: Next(lm, near, None))
    drawn = [step.word for step in sampling.draw(reader, [], lmbda, 30, top_p, temperature, seed)]
    mixed = (lmbda * near + (1 - lmbda) * lm) ** (1 / temperature)
    mixed /= mixed.sum()
    kept, total = np.zeros(4), 0.0
    for word in np.argsort(-mixed):
        if total < top_p:
            kept[word] = mixed[word]
        total += mixed[word]
    rng = np.random.default_rng(seed)
    assert drawn == [int(rng.choice(4, p=kept / kept.sum())) for _ in range(30)]


@pytest.mark.parametrize(("mode", "weight"), [("mixture", 0.1), ("lm", 0), ("knn", 1)])
def test_the_flags_of_generate_say_how_words_are_drawn(study, monkeypatch, mode, weight):
    asked = []
    monkeypatch.setattr(generate.sampling, "draw", lambda *given: asked.append(given[2:]) or [])
    flags = {"words": 7, "temperature": 0.4, "top_p": 0.6, "seed": 9, "lmbda": 0.1, "mode": mode}
    generate.main(generate.GenerateConfig(study=study, prompt="the", **flags))
    assert asked == [(weight, 7, 0.6, 0.4, 9)]
