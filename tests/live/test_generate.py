"""Next-word distributions, what is drawn from them, and what query and generate print."""

import shutil

import numpy as np
import pytest
import tinystudy

from knnlm.artifacts import files, npy
from knnlm.datastores import neighbors
from knnlm.live import generate, layout, passages, query, sampling
from knnlm.live.retrieval import Retriever
from knnlm.outputs import illustrate, scored


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
    lines = printed(capsys, study, explain=True, mode="knn").splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("word ")) + 1 :]
    assert len(table) == 12 and all("kNN (100%, " in line and "(Story <" in line for line in table)


def test_query_prints_neighbors_with_their_targets(study, capsys):
    query.main(query.QueryConfig(study=study, context="the quick brown fox", neighbors=3))
    out = capsys.readouterr().out
    assert "the quick brown fox …" in out and "mixture, λ = " in out
    assert sum("[" in line and "(Story <" in line for line in out.splitlines()) == 3


def test_a_folder_that_is_no_study_is_one_clear_line(tmp_path):
    with pytest.raises(files.UserError, match="no experiments"):
        layout.find(tmp_path)


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
