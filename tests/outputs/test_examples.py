import json
from pathlib import Path

import numpy as np
import pytest

from knnlm.artifacts import description, files, npy
from knnlm.outputs import examples

WORDS = ["", "the", "cat", "<b>", "on", "mat", "|", "Carmen"]


def test_each_share_is_the_softmax_of_minus_distance_over_the_entries_found():
    shares = examples.shares(np.array([1.0, 2.0, 9.0], np.float32), np.array([4, 7, -1]), 1.0)
    assert shares == pytest.approx([1 / (1 + np.exp(-1)), np.exp(-1) / (1 + np.exp(-1)), 0])


def text(tokens: list[int], documents: list[int], context: int = 3) -> examples.Text:
    def words(ids: list[int]) -> str:
        return " ".join(WORDS[i] for i in ids)

    return examples.Text(np.array(tokens), np.array(documents), words, context)


def test_context_ends_at_the_beginning_of_the_document():
    stream = text([1, 2, 3, 4, 5, 1, 2], [0, 4])
    assert (stream.before(3), stream.before(6), stream.before(4)) == ("the cat <b>", "mat the", "")
    assert [stream.document(position) for position in (0, 3, 4, 6)] == [0, 0, 1, 1]


def test_one_example_a_document_and_then_no_overlap():
    stream = text([2] * 20, [0, 10])
    gain = np.array([0.1, 0.9, 0.8, 0.1, 0.1, 0.7, 0.0, 0.0, 0.0, 0.0] + [0.3] + [0.0] * 8 + [-1.0])
    assert examples.select(gain, stream, 2) == [1, 10]
    assert examples.select(gain, stream, 3) == [1, 5, 10]


def test_punctuation_is_no_example():
    stream = text([6, 0, 2], [0])
    assert examples.select(np.array([0.9, 0.8, 0.1]), stream, 3) == [2]


def study(folder: Path) -> examples.ExamplesConfig:
    npy.save_array(folder / "eval.npy", np.array([1, 2, 3, 7, 0], np.uint16))
    npy.save_array(folder / "train.npy", np.array([1, 2, 3, 7, 6, 1, 4, 5, 0], np.uint16))
    npy.save_array(folder / "documents.npy", np.array([0], np.int64))
    npy.save_array(folder / "lm.npy", np.log(np.array([0.5, 0.5, 0.5, 0.02, 0.9], np.float32)))
    npy.save_array(folder / "knn.npy", np.log(np.array([0.4, 0.1, 0.1, 0.88, 0.1], np.float32)))
    ids, distances = np.tile([3, 7, -1], (5, 1)), np.tile(np.array([1, 3, 0], np.float32), (5, 1))
    (folder / "neighbors").mkdir()
    npy.save_array(folder / "neighbors/ids.npy", ids)
    npy.save_array(folder / "neighbors/exact.npy", distances)
    description.write_meta(folder / "neighbors", "merge", {}, {})
    (folder / "vocab").mkdir()
    (folder / "vocab/dict.txt").write_text("".join(f"{word} 9\n" for word in WORDS))
    description.write_meta(folder / "vocab", "build_vocab", {}, {})
    row = {"name": "knn", "seeds": [1], "lmbda": {"knn": [0.25]}}
    (folder / "table1.json").write_text(json.dumps({"experiment": "table1", "rows": [row]}))
    paths = {"eval_tokens": "eval.npy", "train_tokens": "train.npy", "lm": "lm.npy", "knn": "knn.npy"}
    paths |= {"eval_documents": "documents.npy", "train_documents": "documents.npy", "experiment": "table1.json"}
    paths |= {"vocab": "vocab", "neighbors": "neighbors", "out": "out"}
    return examples.ExamplesConfig(**{name: folder / path for name, path in paths.items()}, count=3, note="Mini.")


def test_pages_show_context_target_probabilities_and_neighbors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Words:
        def detokenize(self, ids: list[int]) -> str:
            return " ".join(WORDS[i] for i in ids)

    monkeypatch.setattr(examples.vocab, "load", lambda directory: Words())
    examples.main(study(tmp_path))
    page, markdown = (tmp_path / "out/examples.html").read_text(), (tmp_path / "out/examples.md").read_text()
    assert "<blockquote>the cat &lt;b&gt; <mark>Carmen</mark></blockquote>" in page
    assert "> the cat \\<b\\> **Carmen**" in markdown
    assert "p_kNN = 0.880, p_LM = 0.020, mixture 0.235" in markdown  # 0.25 × 0.88 + 0.75 × 0.02
    assert "| … the cat \\<b\\> | **Carmen** | 1.00 | 0.881 |" in markdown
    assert "| … the cat \\<b\\> Carmen \\| the on | mat | 3.00 | 0.119 |" in markdown
    assert markdown.count("## ") == 1  # nowhere else does kNN win


def test_probabilities_of_another_length_are_one_clear_line(tmp_path: Path):
    config = study(tmp_path)
    npy.save_array(tmp_path / "lm.npy", np.zeros(3, np.float32))
    with pytest.raises(files.UserError, match="5 tokens, 3 LM and 5 kNN"):
        examples.main(config)
