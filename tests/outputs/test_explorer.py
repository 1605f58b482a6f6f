"""What the explorer's page holds; test_explorer_page.py reads it in a browser."""

import base64
import gzip
from pathlib import Path

import numpy as np
import pytest
import tinyexplorer
import torch

from knnlm.artifacts import files, npy
from knnlm.live import layout
from knnlm.outputs import candidates, explore, packing, scored, spacing


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tinyexplorer.write(tmp_path_factory.mktemp("results") / "tiny")


@pytest.fixture(scope="module")
def page_path(study):
    return tinyexplorer.page(study)


def test_the_page_has_the_same_bytes_twice_and_no_address_of_another_file(study, page_path: Path):
    page = page_path.read_text()
    assert page == tinyexplorer.page(study, "again.html").read_text()
    assert "http" not in page and "src=" not in page and "@import" not in page
    assert page.count("</script>") == 2  # the corpus has the word </script><b>&amp;


def test_the_page_shows_of_a_token_what_the_study_measured(study):
    source = layout.find(study)
    text = scored.load(source, "dev")
    ((words, lm, near),) = candidates.candidates(source, [text], 100, words=5, batch_tokens=12288)
    for position in range(100):
        seen = dict(zip(words[position].tolist(), zip(lm[position], near[position], strict=True), strict=True))
        if (target := int(text.tokens[position])) in seen:
            shown = packing.restored(np.array(seen[target]))
            measured = [npy.open_array(path)[position] for path in (source.lm("dev"), source.knn("dev"))]
            assert np.exp(shown) == pytest.approx(np.exp(measured), abs=1e-3)


def test_weights_of_neighbors_are_shares_of_all_k(study):
    _, _, weights = explore.nearest(scored.load(layout.find(study)), 50, shown=16)
    assert np.exp(packing.restored(weights)).sum(1) == pytest.approx(np.ones(50), abs=2e-3)


def test_a_page_beyond_its_size_is_refused_with_the_way_out(study):
    with pytest.raises(files.UserError, match="lower --tokens or --neighbors"):
        explore.main(explore.ExploreConfig(study=study, out=study / "x.html", megabytes=0.001))


def test_logprobs_survive_16_bits():
    logprob = np.log(np.array([1, 0.5, 1e-13, 0]), where=[True, True, True, False], out=np.full(4, -np.inf))
    assert np.exp(packing.restored(packing.quantized(logprob))) == pytest.approx(np.exp(logprob), rel=3e-4)


def test_kept_contexts_end_at_their_document():
    kept = packing.windows(np.array([1, 6]), np.array([0, 5]), 10, before=3, after=1)
    assert np.flatnonzero(kept).tolist() == [0, 1, 2, 5, 6, 7]


def test_pieces_of_three_vocabularies_join():
    assert [spacing.piece(token)[1] for token in ("fox", ",", "(", "@-@", "##ing", '"', "</s>")] == [
        0,
        1,
        2,
        3,
        1,
        4,
        8,
    ]
    assert spacing.subword("▁fox") == ("fox", 0) and spacing.subword("es") == ("es", 1)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_words_and_weights_of_each_token_are_of_the_rows_temperature(temperature, monkeypatch):
    """Six tokens, of which five are shown, with three neighbors each in no order of distance; six words.

    The tokens come in no order, two are worked out at a time, two words of one are as likely, and one has one neighbor.
    """
    rng = np.random.default_rng(2)
    near, values = rng.gamma(2, 3, (6, 3)).astype(np.float32), rng.integers(0, 6, (6, 3))
    ids, probabilities = rng.integers(0, 50, (6, 3)), rng.dirichlet(np.ones(6), 6)
    near[4, 1:], ids[4, 1:], values[4, 1:], ids[0, 0] = np.inf, -1, probabilities[4].argmin(), 0
    near[3], values[3] = [2, 5, 5], [4, 3, 1]
    scores = np.zeros(6, np.float32)
    text = scored.ScoredText(values[:, 0], scores, scores, ids, values, near, "exact", temperature)
    logprob = torch.from_numpy(np.log(probabilities).astype(np.float32))
    blocks = [(np.array(block), logprob[block]) for block in ([4, 1, 0], [3, 2])]
    monkeypatch.setattr(candidates.distributions, "blocks", lambda *_: blocks)
    monkeypatch.setattr(candidates, "CELLS", 6)
    ((words, lm, knn_logprob),) = candidates.candidates(None, [text], 5, words=2, batch_tokens=1)
    entries, distances, weights = explore.nearest(text, 5, shown=2)
    for position in range(5):
        shares = np.exp(-near[position].astype(float) / temperature)
        shares /= shares.sum()
        of_word = {word: shares[values[position] == word].sum() for word in range(6)}
        likeliest = sorted(range(6), key=lambda word: -probabilities[position, word])[:2]
        retrieved = sorted((word for word in range(6) if of_word[word] > 0), key=lambda word: -of_word[word])[:2]
        union = sorted({*likeliest, *retrieved})
        assert words[position].tolist() == union + [0] * (4 - len(union))
        for logprobs, expected in ((lm, probabilities[position]), (knn_logprob, of_word)):
            shown = np.exp(packing.restored(logprobs[position]))
            assert shown == pytest.approx([expected[word] for word in union] + [0] * (4 - len(union)), rel=2e-3)
        order = np.argsort(near[position])[:2]
        assert entries[position].tolist() == ids[position, order].tolist()
        assert distances[position] == pytest.approx(near[position, order], rel=1e-2)
        assert np.exp(packing.restored(weights[position])) == pytest.approx(shares[order], rel=2e-3)


def test_the_first_entry_is_shown_and_a_missing_one_is_not(study):
    source = layout.find(study)
    near = explore.contexts(source, np.array([[0, -1], [5, 0]]), before=2, after=1)
    stream = npy.open_array(source.tokens("fox", "train"))
    assert near.tokens.tolist() == stream[[0, 1, 3, 4, 5, 6]].tolist()
    assert near.places.tolist() == [[1, 0], [5, 1]] and near.documents.tolist() == [0]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_every_token_and_no_document_behind_the_last_is_on_the_page(study, split):
    source = layout.find(study)
    starts = npy.open_array(source.documents("fox", split)).tolist()
    everything = explore.collect(explore.ExploreConfig(study=study, out=study / "x.html", split=split), source)
    total = len(npy.open_array(source.tokens("fox", split)))
    assert everything["shown"]["tokens"] == everything["shown"]["of"] == total
    assert [start for start, _ in everything["documents"]] == starts
    for count, expected in ((starts[2], starts[:2]), (starts[2] + 1, starts[:3])):
        assert [start for start, _ in explore.documents(source, split, count)] == expected


def unpacked(packed: dict) -> np.ndarray:
    types = {name: kind for kind, name in packing.ARRAYS.items()}
    return np.frombuffer(gzip.decompress(base64.b64decode(packed["data"])), types[packed["type"]])


def test_rows_of_other_experiments_are_held_each_once(study):
    config = explore.ExploreConfig(study=study, out=study / "x.html", compare=("temperature",), neighbors=4)
    page = explore.collect(config, layout.find(study))
    rows = {row["name"]: row for row in page["rows"]}
    assert list(rows) == ["knn", "t3", "quantized", "lost"]  # its row "same" has the scores of "knn"
    for name, row in rows.items():
        output = "table1" if name == "knn" else "temperature"
        source = layout.find(study, output, name)
        held = {part: unpacked(page["arrays"][place]) for part, place in row["arrays"].items()}
        assert held["knn"].tolist() == npy.open_array(source.knn("dev")).tolist()
        assert row["lmbda"] == source.lmbda and row["store"]["temperature"] == source.store["temperature"]
        if name == "lost":
            assert list(held) == ["knn"]  # its neighbors are deleted
        else:
            text = scored.load(source, "dev")
            entries, _, weights = explore.nearest(text, len(text.tokens), 4)
            assert held["weight"].tolist() == weights.ravel().tolist()
            assert (held["neighbor"].reshape(entries.shape) > 0).tolist() == (entries >= 0).tolist()


def test_what_two_rows_share_is_stored_once(study):
    config = explore.ExploreConfig(study=study, out=study / "x.html", compare=("temperature",))
    page = explore.collect(config, layout.find(study))
    first, other = (row["arrays"] for row in page["rows"][:2])
    assert {part for part in first if first[part] == other[part]} == {"neighbor", "distance"}
    data = [array["data"] for array in page["arrays"]]
    assert len(set(data)) == len(data)


def test_rows_are_of_the_seed_that_is_shown(study, monkeypatch):
    asked, find = [], layout.find
    monkeypatch.setattr(layout, "find", lambda *given: (asked.append(given[3:]), find(*given[:3]))[1])
    monkeypatch.setattr(explore, "comparable", lambda source, row: bool(row["datastore"]))
    config = explore.ExploreConfig(study=study, out=study / "x.html", compare=("temperature",))
    explore.rows(config, find(study))
    assert len(asked) > 1 and set(asked) == {(find(study).seed,)}  # named, and not the row's first


@pytest.mark.parametrize("key, value", [("model", "owl"), ("corpus", "owl"), ("seeds", [2]), ("datastore", None)])
def test_a_row_of_another_model_text_seed_or_without_a_datastore_is_not_compared(study, key, value):
    source = layout.find(study)
    row = layout.find(study, "temperature", "t3").row
    assert explore.comparable(source, row) and not explore.comparable(source, row | {key: value})
    assert not explore.comparable(source, row | {"lmbda": {"knn": [0.1], "cache": [0.1]}})
    assert not explore.comparable(source, row | {"datastore": row["datastore"] | {"shards": 1}})


def test_an_experiment_that_was_not_run_is_named(study):
    config = explore.ExploreConfig(study=study, out=study / "x.html", compare=("precision",))
    with pytest.raises(files.UserError, match=r"precision\.json: no such file"):
        explore.collect(config, layout.find(study))


def test_fewer_tokens_make_a_smaller_page(study):
    sizes = [tinyexplorer.page(study, f"{tokens}.html", tokens=tokens).stat().st_size for tokens in (40, 120, 240)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] - 5000


def test_the_page_has_no_absolute_path(study, page_path):
    page = page_path.read_text()
    assert str(study) not in page and str(study.parent) not in page and str(Path.home()) + "/" not in page
