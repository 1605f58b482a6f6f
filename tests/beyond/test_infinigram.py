"""The ∞-gram against a search through the whole text, token by token, in Python."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tinystudy

from knnlm.artifacts import cli, description, files, lineage, npy
from knnlm.beyond import infinigram, score_infinigram
from knnlm.beyond.infinigram import Scored
from knnlm.scores import mixture

TOKENS = "tokens/words/fox"
WIDE = [0, 1, 2, 255, 256, 257, 65534, 65535, 65536, 65537, 69999]  # whose last bytes or last two are alike


def divided(tokens: np.ndarray, documents: np.ndarray) -> list[list[int]]:
    ends = [*documents[1:].tolist(), len(tokens)]
    return [tokens[start:end].tolist() for start, end in zip(documents.tolist(), ends, strict=True)]


def followers(texts: list[list[int]], context: list[int]) -> Counter[int]:
    """The words that follow a context in the documents of a text."""
    size = len(context)
    places = [(text, i) for text in texts for i in range(size, len(text)) if text[i - size : i] == context]
    return Counter(text[i] for text, i in places)


def expected(train: list[list[int]], held_out: list[list[int]]) -> list[tuple[int, int, int, bool]]:
    """Length, count, hits and sparsity of every target, the longest contexts tried first."""
    found = []
    for text in held_out:
        for i, target in enumerate(text):
            for start in range(i + 1):
                if words := followers(train, text[start:i]):
                    found.append((i - start, words.total(), words[target], len(words) == 1))
                    break
    return found


def searched(train: list[list[int]], held_out: list[list[int]], kind: str = "uint32") -> infinigram.Matches:
    return infinigram.search(infinigram.index(*joined(train, kind)), *joined(held_out, kind))


def joined(texts: list[list[int]], kind: str = "uint32") -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0, *map(len, texts[:-1])], dtype=np.int64)
    return np.concatenate([np.array(text, kind) for text in texts]), starts


def rows(found: infinigram.Matches) -> list[tuple]:
    return list(zip(*(column.tolist() for column in found), strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("words", "kind"),
    [([0, 1], "uint16"), (range(50), "uint16"), (WIDE, "uint32"), ([7], "uint32"), ([1, 1 << 31, 2**32 - 2], "uint32")],
)
def test_every_number_is_that_of_a_search_by_hand(words: list[int], kind: str, seed: int):
    generator = np.random.default_rng(seed)

    def text(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
        tokens = generator.choice(np.array(words), sum(lengths), p=generator.dirichlet(np.ones(len(words))))
        return tokens.astype(kind), np.cumsum([0, *lengths[:-1]])

    train, held_out = text([1, 60, 1, 90, 40]), text([1, 30, 25, 40, 1])
    held_out[0][31:56] = train[0][50:75]  # a document that runs across the end of one of the text's, and on
    found = infinigram.search(infinigram.index(*train), *held_out)
    assert rows(found) == expected(divided(*train), divided(*held_out))
    assert [column.dtype.name for column in found] == ["int32", "int64", "int64", "bool"]


def test_the_index_has_the_lexical_order_of_all_ends_of_the_text():
    tokens = np.random.default_rng(0).choice([0, 1, 255, 256, 65_535, 65_536], 200).astype(np.uint32)
    stream, order = infinigram.index(tokens, np.array([0, 3, 80]))
    assert stream.tolist() == [*(tokens[:3] + 1), 0, *(tokens[3:80] + 1), 0, *(tokens[80:] + 1), 0]
    assert order.tolist() == sorted(range(203), key=lambda start: stream[start:].tolist())


def test_the_longest_end_of_the_context_that_occurs_decides():
    found = searched([[5, 1, 2, 3], [6, 1, 2, 4], [2, 3]], [[9, 1, 2, 3], [6, 1, 2, 3]])
    assert rows(found)[2:4] == [(1, 2, 2, True), (2, 2, 1, False)]
    assert rows(found)[7] == (3, 1, 0, True)  # 6 1 2 was followed by 4 only


def test_words_of_the_text_by_frequency_where_no_context_is():
    train = [[1, 2, 2], [2, 3]]
    found = searched(train, [[2], [3, 9, 1]])
    assert rows(found)[:2] == [(0, 5, 3, False), (0, 5, 1, False)]  # first tokens of documents
    assert rows(found)[3] == (0, 5, 1, False)  # 9 is no word of the text
    assert np.exp(infinigram.scored(found).logprob) == pytest.approx([3 / 5, 1 / 5, 0, 1 / 5])


def test_no_match_runs_from_one_document_into_the_next():
    found = searched([[1, 2], [3, 4]], [[1, 2, 3], [3, 4]])
    assert rows(found)[2] == (0, 4, 1, False)  # 2 stands only at an end, which no word follows
    assert rows(found)[3] == (0, 4, 1, False)  # not 2 3: the context begins with the document
    assert rows(searched([[1, 2, 3, 4]], [[1, 2, 3], [3, 4]]))[2] == (2, 1, 1, True)


def test_an_end_that_only_stands_where_documents_end_gives_way_to_a_shorter_one():
    found = searched([[7, 1, 2], [8, 2, 5]], [[1, 2, 5]])
    assert rows(found)[2] == (1, 1, 1, True)


def test_a_copied_document_is_matched_from_its_beginning_to_its_end():
    text = np.random.default_rng(0).permutation(3000).tolist()
    found = searched([text[:1000], text[1000:]], [text[1000:]])
    assert found.length.tolist() == list(range(2000))
    assert found.sparse[1:].all() and (found.hits[1:] == 1).all() and not found.sparse[0]


def test_a_word_repeated_more_often_than_in_the_text():
    found = searched([[7] * 300, [8, 7, 9]], [[7] * 400 + [9, 7]])
    assert found.length.tolist() == [*range(300), *[299] * 100, 299, 0]
    assert found.total[:300].tolist() == [303, 300, *range(298, 0, -1)]  # one 7 more is followed, by 9
    assert rows(found)[399:] == [(299, 1, 1, True), (299, 1, 0, True), (0, 303, 301, False)]


def test_probabilities_sum_to_one_over_the_vocabulary():
    generator, size = np.random.default_rng(1), 12
    train = [generator.integers(0, size, length).tolist() for length in (70, 1, 200)]
    for context in ([], [3], [3, 4], train[0][20:26], train[0][-2:], train[2][-9:]):
        logprob = infinigram.scored(searched(train, [[*context, word] for word in range(size)])).logprob
        assert np.exp(logprob[len(context) :: len(context) + 1]).sum() == pytest.approx(1, abs=1e-6)


def made_up(seed: int, count: int = 400) -> tuple[Scored, np.ndarray, np.ndarray]:
    """Scores of targets of which the sparse ones are mostly right, with an LM's and kNN's."""
    generator = np.random.default_rng(seed)
    sparse = generator.random(count) < 0.3
    right = generator.random(count) < np.where(sparse, 0.8, 0.4)
    logprob = np.where(right, np.where(sparse, 0, np.log(generator.uniform(0.05, 0.6, count))), -np.inf)
    lm, knn = (np.log(generator.uniform(0.01, 0.5, count)).astype(np.float32) for _ in range(2))
    return Scored(logprob.astype(np.float32), generator.integers(0, 9, count).astype(np.int32), sparse), lm, knn


@pytest.mark.parametrize("seed", range(3))
def test_each_kind_of_target_has_the_weight_that_is_best_for_it_on_dev(seed: int):
    (dev, lm_dev, _), (test, lm_test, _) = made_up(seed), made_up(seed + 100)
    found = infinigram.mixed(dev, test, lm_dev, lm_test)
    assert found.weights.shape == (2, 1)
    grid = np.linspace(0, 0.999, 1000)
    for kind in (0, 1):
        rows = dev.sparse == kind
        losses = [-np.log(w * np.exp(dev.logprob[rows]) + (1 - w) * np.exp(lm_dev[rows])).mean() for w in grid]
        assert found.weights[kind, 0] == pytest.approx(grid[np.argmin(losses)], abs=2e-3)
    assert abs(found.weights[1, 0] - found.weights[0, 0]) > 0.1
    for split, lm, mixed in ((dev, lm_dev, found.dev), (test, lm_test, found.test)):
        weight = np.where(split.sparse, found.weights[1, 0], found.weights[0, 0])
        np.testing.assert_allclose(np.exp(mixed), weight * np.exp(split.logprob) + (1 - weight) * np.exp(lm), rtol=1e-6)


def test_weights_are_tuned_on_dev_and_test_has_no_part_in_it():
    (dev, lm_dev, knn_dev), *tests = (made_up(seed) for seed in (0, 1, 2))
    for others in (0, 1):
        weights = [
            infinigram.mixed(dev, test, lm_dev, lm, [(knn_dev, knn)] * others).weights for test, lm, knn in tests
        ]
        np.testing.assert_array_equal(*weights)
    other, lm, _ = tests[0]
    assert (infinigram.mixed(other, dev, lm, lm_dev).weights != weights[0][:, :1]).any()


def test_with_knn_both_have_two_weights():
    (dev, lm_dev, knn_dev), (test, lm_test, knn_test) = made_up(3), made_up(4)
    found = infinigram.mixed(dev, test, lm_dev, lm_test, [(knn_dev, knn_test)])
    alone = infinigram.mixed(dev, test, lm_dev, lm_test)
    assert found.weights.shape == (2, 2) and mixture.perplexity(found.dev) < mixture.perplexity(alone.dev)
    for kind in (0, 1):
        rows = dev.sparse == kind
        best = mixture.tune([dev.logprob[rows], knn_dev[rows]], lm_dev[rows])
        np.testing.assert_array_equal(found.weights[kind], best)
        of_test = test.sparse == kind
        parts = np.exp([test.logprob[of_test], knn_test[of_test], lm_test[of_test]])
        np.testing.assert_allclose(np.exp(found.test[of_test]), [*best, 1 - best.sum()] @ parts, rtol=1e-6)


def test_a_kind_that_dev_lacks_is_left_to_the_lm():
    (dev, lm_dev, _), (test, lm_test, _) = made_up(5), made_up(6)
    found = infinigram.mixed(dev._replace(sparse=np.zeros(400, bool)), test, lm_dev, lm_test)
    assert found.weights[1] == 0 and found.weights[0] > 0
    np.testing.assert_array_equal(found.test[test.sparse], lm_test[test.sparse])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A study, and one of other texts with another vocabulary."""
    root = tmp_path_factory.mktemp("results")
    return {name: tinystudy.write(root / name, texts) for name, texts in (("this", 0), ("other", 10))}


@pytest.fixture
def study(made: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(made["this"], tmp_path / "study")


def command(study: Path, *splits: str, out: Path, **changes: Path) -> list[str]:
    tokens = study / TOKENS
    given: dict[str, list[Path]] = {
        "tokens": [tokens / f"{split}.npy" for split in splits],
        "documents": [tokens / f"{split}.documents.npy" for split in splits],
        "train": [tokens / "train.npy"],
        "train-documents": [tokens / "train.documents.npy"],
        "vocab": [study / "vocabs/words"],
        "out": [out / split for split in splits],
    }
    given |= {name.replace("_", "-"): [path] for name, path in changes.items()}
    return [part for name, paths in given.items() for part in (f"--{name}", *map(str, paths))]


def run(arguments: list[str]) -> None:
    cli.run(score_infinigram.main, score_infinigram.ScoreInfinigramConfig, "score_infinigram", arguments)


@pytest.mark.parametrize("splits", [("dev",), ("dev", "test")])
def test_the_command_writes_the_numbers_of_a_study(study: Path, tmp_path: Path, splits: tuple[str, ...]):
    run(command(study, *splits, out=tmp_path / "out"))
    train = divided(*(np.load(study / TOKENS / f"train{end}.npy") for end in ("", ".documents")))
    for split in splits:
        tokens, documents = (study / TOKENS / f"{split}{end}.npy" for end in ("", ".documents"))
        length, count, hits, sparse = map(
            np.array, zip(*expected(train, divided(np.load(tokens), np.load(documents))), strict=True)
        )
        found = {name: npy.open_array(tmp_path / "out" / split / f"{name}.npy") for name in Scored._fields}
        with np.errstate(divide="ignore"):
            np.testing.assert_array_equal(found["logprob"], np.log(hits / count).astype(np.float32))
        np.testing.assert_array_equal(found["length"], length)
        np.testing.assert_array_equal(found["sparse"], sparse)
        assert [found[name].dtype.name for name in Scored._fields] == ["float32", "int32", "bool"]
        assert lineage.of(tmp_path / "out" / split) == lineage.agree((tokens, documents), "vocab", "text")
        assert set(description.described(tmp_path / "out" / split)["inputs"]) == {
            "train",
            "tokens",
            "documents",
            "vocab",
        }


def refused(arguments: list[str], *parts: str) -> None:
    """The command ends with exit code 1 and one line that holds each of `parts`, and writes nothing."""
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    line = str(ended.value.code)
    assert line.startswith("error: ") and "\n" not in line
    assert all(part in line for part in parts), line
    assert not list(Path(arguments[-1]).parent.glob("*"))


def test_a_text_of_another_vocabulary_is_refused(study, made, tmp_path):
    tokens = made["other"] / TOKENS
    other = {"train": tokens / "train.npy", "train_documents": tokens / "train.documents.npy"}
    refused(command(study, "dev", out=tmp_path / "out", **other), "train.npy has vocab", "vocabs/words")
    vocab = made["other"] / "vocabs/words"
    refused(command(study, "dev", out=tmp_path / "out", vocab=vocab), str(vocab), "same vocab")


@pytest.mark.parametrize("name", ["train.npy", "train.documents.npy", "dev.npy", "dev.documents.npy"])
def test_a_damaged_file_is_refused(study, tmp_path, name):
    path = study / TOKENS / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(command(study, "dev", out=tmp_path / "out"), str(path), "digest")
    path.write_bytes(whole[:-1])
    refused(command(study, "dev", out=tmp_path / "out"), str(path), "bytes")
    path.unlink()
    refused(command(study, "dev", out=tmp_path / "out"), str(path), "no such file")


def test_documents_of_another_split_are_refused(study, tmp_path):
    documents = study / TOKENS / "test.documents.npy"
    refused(command(study, "dev", out=tmp_path / "out", documents=documents), str(documents), "text")
    refused(command(study, "dev", out=tmp_path / "out", train_documents=documents), str(documents), "text")


def test_a_token_outside_of_the_vocabulary_is_refused(tmp_path):
    """Files without a description, as published ones, are compared with the vocabulary's size alone."""
    folder, size = tmp_path / TOKENS, 9
    folder.mkdir(parents=True)
    (tmp_path / "vocabs/words").mkdir(parents=True)
    files.write_json(tmp_path / "vocabs/words/vocab.json", {"size": size})
    for split, largest in (("train", size), ("dev", size - 1)):
        np.save(folder / f"{split}.npy", np.array([1, largest], np.uint16))
        np.save(folder / f"{split}.documents.npy", np.array([0]))
    refused(command(tmp_path, "dev", out=tmp_path / "out"), "train.npy: found token 9", "9 words")
    np.save(folder / "train.npy", np.array([1, size - 1], np.uint16))
    run(command(tmp_path, "dev", out=tmp_path / "out"))
    np.save(folder / "dev.documents.npy", np.array([0, 2]))
    refused(command(tmp_path, "dev", out=tmp_path / "new"), "dev.documents.npy does not fit the 2 tokens")


def test_as_many_documents_and_outputs_as_token_files(tmp_path):
    with pytest.raises(files.UserError, match="--tokens names 1 files, --documents 2 and --out 1"):
        path = tmp_path / "x"
        score_infinigram.ScoreInfinigramConfig(path, path, (path,), (path, path), path, (path,))
