from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinystudy

from knnlm.artifacts import description, files, npy
from knnlm.live import layout
from knnlm.live.passages import Passage, Passages
from knnlm.outputs import examples, pages, scored

WORDS = ["", "the", "cat", "<b>", "on", "mat", "|", "Carmen"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinystudy.write(tmp_path_factory.mktemp("results") / "tiny")


def text(**changes: Any) -> scored.ScoredText:
    """Five tokens with hand-written probabilities and, each, two neighbors at distances 1 and 3 and a missing one."""
    facts = {
        "tokens": np.array([1, 2, 3, 7, 0]),
        "lm": np.log(np.array([0.5, 0.5, 0.5, 0.02, 0.9], np.float32)),
        "knn": np.log(np.array([0.4, 0.1, 0.1, 0.88, 0.1], np.float32)),
        "ids": np.tile([3, 7, -1], (5, 1)),
        "values": np.tile([7, 5, 0], (5, 1)),
        "stored": np.tile(np.array([1, 3, np.inf], np.float32), (5, 1)),
        "distance": "exact",
        "temperature": 1.0,
    }
    return scored.ScoredText(**facts | changes)


class Words:
    """The words around a position of a token stream that is one document."""

    def __init__(self, tokens: list[int]) -> None:
        self.words = [WORDS[token] for token in tokens]

    def at(self, i: int) -> Passage:
        return Passage(" ".join(self.words[:i]), self.words[i], " ".join(self.words[i + 1 :]), "")


def test_each_share_is_the_softmax_of_minus_distance_over_the_entries_that_are_there():
    near = np.array([[1.0, 2.0, np.inf]] * 5, np.float32)
    expected = [1 / (1 + np.exp(-1)), np.exp(-1) / (1 + np.exp(-1)), 0]
    assert np.exp(text(stored=near).log_shares(0)) == pytest.approx(expected)
    assert np.exp(text(stored=2 * near, temperature=2.0).log_shares(slice(2))) == pytest.approx(
        np.array([expected] * 2)
    )


def test_shares_of_a_token_without_neighbors_are_zero():
    nothing = text(stored=np.full((5, 3), np.inf, np.float32))
    assert np.exp(nothing.log_shares(0)).tolist() == [0, 0, 0]


def test_a_row_that_weighs_roots_gets_the_roots_of_quantized_distances():
    near = np.array([[4.0, -1e-6, np.inf]] * 5, np.float32)
    assert text(stored=near, distance="quantized_sqrt").distances(0).tolist() == [2, 0, np.inf]
    assert text(stored=near, distance="quantized").distances(0).tolist() == near[0].tolist()


def test_context_ends_at_the_beginning_of_the_document(study: Path):
    source = layout.find(study)
    held_out = Passages(source, before=3, after=0, held_out="test")
    words = (study / "corpora/fox/test.txt").read_text().splitlines()[1].split()
    begin = int(held_out.documents[1])
    assert held_out.at(begin).before == "" and held_out.at(begin).target == words[0]
    assert held_out.text(begin, begin + 2).split() == words[:2]
    assert held_out.at(begin + 2).before == held_out.text(begin, begin + 2)
    assert held_out.at(begin + 6).before == held_out.text(begin + 3, begin + 6)
    assert [held_out.at(begin + i).title for i in (-1, 0)] == ["Story <0>", "Story <1>"]


def test_the_end_of_a_line_is_shown_as_asked(study: Path):
    source = layout.find(study)
    marked, spaced = (Passages(source, held_out="test", line_end=mark) for mark in ("↵", " "))
    end = int(marked.documents[1])  # its token before is the end of the first line
    assert marked.text(end - 3, end + 1).count("↵") == 1
    assert spaced.text(end - 3, end + 1) == " ".join(marked.text(end - 3, end + 1).replace("↵", " ").split())


def select(gain: np.ndarray, tokens: list[int], documents: list[int], count: int) -> list[int]:
    return examples.select(gain, lambda i: WORDS[tokens[i]], np.array(documents), 3, count)


def test_one_example_a_document_and_then_no_overlap():
    gain = np.array([0.1, 0.9, 0.8, 0.1, 0.1, 0.7, 0.0, 0.0, 0.0, 0.0] + [0.3] + [0.0] * 8 + [-1.0])
    assert select(gain, [2] * 20, [0, 10], 1) == [1]
    assert select(gain, [2] * 20, [0, 10], 2) == [1, 10]
    assert select(gain, [2] * 20, [0, 10], 3) == [1, 5, 10]


def test_another_word_comes_before_the_same_word_of_another_document():
    gain = np.array([0.9, 0.1, 0.1, 0.8, 0.1, 0.1, 0.1, 0.5, 0.1])
    tokens = [2, 1, 1, 2, 1, 1, 1, 4, 1]
    assert select(gain, tokens, [0, 3, 6], 2) == [0, 7]
    assert select(gain, tokens, [0, 3, 6], 3) == [0, 7, 4]  # the third word, of the document that is left
    assert select(gain, [2] * 9, [0, 3, 6], 2) == [0, 3]


def test_no_example_where_knn_nowhere_helps():
    assert select(np.array([-0.1, 0.0, -0.2]), [2, 2, 2], [0], 3) == []


def test_punctuation_is_no_example():
    assert select(np.array([0.9, 0.8, 0.1]), [6, 0, 2], [0], 3) == [2]


def test_pages_show_context_target_probabilities_and_neighbors():
    test, train = Words([1, 2, 3, 7, 0]), Words([1, 2, 3, 7, 6, 1, 4, 5, 0])
    shown: Any = [examples.example(text(), test, train, 3, 0.25, 5)]
    page, markdown = (
        pages.render(name, examples=shown, lmbda=0.25, note="Mini.") for name in ("examples.html", "examples.md")
    )
    assert "<blockquote>the cat &lt;b&gt; <mark>Carmen</mark></blockquote>" in page
    assert "> the cat \\<b\\> **Carmen**" in markdown
    assert "p_kNN = 0.880, p_LM = 0.020, mixture 0.235" in markdown  # 0.25 × 0.88 + 0.75 × 0.02
    assert "| … the cat \\<b\\> | **Carmen** | 1.00 | 0.881 |" in markdown
    assert "| … the cat \\<b\\> Carmen \\| the on | mat | 3.00 | 0.119 |" in markdown
    assert markdown.count("| …") == 2  # the missing neighbor is left out


def test_the_examples_of_a_study_are_where_knn_gains_most(study: Path, tmp_path: Path):
    examples.main(examples.ExamplesConfig(study=study, out=tmp_path / "out", count=3, note="Tiny."))
    markdown = (tmp_path / "out/examples.md").read_text()
    source = layout.find(study)
    knn, lm = (np.exp(npy.open_array(path)) for path in (source.knn("test"), source.lm("test")))
    tokens = npy.open_array(source.tokens("fox", "test"))
    words = Passages(source, held_out="test")
    best = next(int(i) for i in np.argsort(lm - knn, kind="stable") if examples.readable(words.at(int(i)).target))
    assert f"## 1. {words.vocab.detokenize([int(tokens[best])]).strip()}" in markdown
    numbers = [pages.probability(float(p)) for p in (knn[best], lm[best])]
    assert f"p_kNN = {numbers[0]}, p_LM = {numbers[1]}, mixture" in markdown
    assert markdown.count("## ") == 3 and "Tiny." in markdown
    assert set(description.described(tmp_path / "out")["outputs"]) == {"examples.md", "examples.html"}


def test_probabilities_of_another_length_are_one_clear_line():
    with pytest.raises(files.UserError, match="5 tokens, 3 LM and 5 kNN"):
        text(lm=np.zeros(3, np.float32))


def test_neighbors_from_another_text_are_one_clear_line(study: Path, monkeypatch: pytest.MonkeyPatch):
    lineages = scored.lineage.of
    changed = {"datastore": "another text"}
    monkeypatch.setattr(
        scored.lineage, "of", lambda path: lineages(path) | (changed if "neighbors" in str(path) else {})
    )
    with pytest.raises(files.UserError, match=r"found in another text than .*train\.npy; search again"):
        scored._check_datastore(layout.find(study))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_heaviest_neighbors_come_first_whatever_their_order_and_their_weights_are_of_the_temperature(temperature):
    """Neighbors in the index's order, which is not that of exact distances; one is the first entry, 0."""
    near = np.array([[9.0, 1.0, np.inf], [2.0, 8.0, 4.0], [3.0, 2.0, 1.0], [5, 5, 5], [6.0, 0.0, 7.0]], np.float32)
    ids = np.array([[4, 5, -1], [7, 0, 3], [2, 1, 0], [0, 1, 2], [3, 0, 6]])
    values = np.array([[1, 4, 0], [2, 1, 2], [7, 7, 3], [1, 2, 7], [0, 1, 4]])
    found, train = text(stored=near, ids=ids, values=values, temperature=temperature), Words([1, 2, 3, 7, 6, 1, 4, 5])
    for position in range(5):
        weights = np.exp(-near[position].astype(float) / temperature) / np.exp(-near[position] / temperature).sum()
        order = sorted(range(3), key=lambda column: near[position, column])
        expected = [
            (train.words[ids[position, i]], bool(values[position, i] == found.tokens[position]), near[position, i])
            for i in order
            if ids[position, i] >= 0
        ]
        for count in (1, 2, 3):
            shown = list(examples.heaviest(found, train, position, count))
            assert [(one.target, one.hit, one.distance) for one in shown] == expected[:count]
            assert [one.probability for one in shown] == pytest.approx([weights[i] for i in order][: len(shown)])


def test_an_example_may_be_the_first_token_and_the_next_one_just_beyond_the_context():
    gain = np.array([0.9, 0.0, 0.0, 0.8, 0.7, 0.0, 0.0])
    assert select(gain, [2] * 7, [0], 2) == [0, 4]  # three tokens of context: 3 is too near
    assert select(gain, [2, 1, 1, 4, 5, 1, 1], [0, 3], 2) == [0, 3]  # 3 begins a document of its own


@pytest.mark.parametrize("line_end", ["↵", " "])
def test_a_target_that_is_a_space_or_the_end_of_a_line_is_shown(study: Path, monkeypatch, line_end: str):
    passages = Passages(layout.find(study), line_end=line_end)
    end = int(np.flatnonzero(passages.stream == passages.vocab.eos)[0])
    assert passages.at(end).target == "↵"
    monkeypatch.setattr(passages.vocab, "detokenize", lambda ids: " ")
    monkeypatch.setattr(passages.vocab, "tokens", lambda ids: ["▁"])
    assert passages.at(end - 1).target == "▁"
