"""The ∞-gram against a search through the text, position by position."""

import numpy as np
import pytest

from knnlm.beyond import infinigram


def brute(train: list[int], tokens: list[int], documents: list[int], i: int) -> tuple[float, int, bool]:
    """Probability of token i, length of the longest end of its context with a next word, whether one word follows."""
    begin = max(start for start in documents if start <= i)
    for length in range(i - begin, 0, -1):
        end = tokens[i - length : i]
        after = [train[j + length] for j in range(len(train) - length) if train[j : j + length] == end]
        if after:
            return after.count(tokens[i]) / len(after), length, len(set(after)) == 1
    return train.count(tokens[i]) / len(train), 0, False


@pytest.mark.parametrize("size", [2, 5, 50, 70_000, 1 << 31])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_number_is_that_of_a_search_through_the_text(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = np.unique(rng.integers(0, size, 5))  # few different ones, so that ends are found
    if size == 1 << 31:
        words = words % 100_000  # counts of single words are an array of the vocabulary's size
    train = rng.choice(words, 300).tolist()
    tokens = rng.choice(words, 120).tolist()
    tokens[40:60] = train[100:120]  # a long end
    tokens[-6:] = train[-6:]  # an end of the text itself
    documents = [0, 1, 30, 31, 90]
    found = infinigram.score(np.array(train, np.uint32), np.array(tokens, np.uint32), np.array(documents))
    for i in range(len(tokens)):
        probability, length, sparse = brute(train, tokens, documents, i)
        assert np.exp(found.logprob[i]) == pytest.approx(probability, abs=1e-6), i
        assert (found.length[i], found.sparse[i]) == (length, sparse), i
    assert found.length.max() >= 19 and found.length.min() == 0


def test_an_end_that_only_ends_the_text_has_no_next_word() -> None:
    found = infinigram.score(np.array([1, 2, 1, 3, 4, 5]), np.array([1, 3, 4, 5, 2]), np.array([0]))
    assert found.length.tolist() == [0, 1, 2, 3, 0] and found.sparse.tolist() == [False, False, True, True, False]
    assert np.exp(found.logprob).tolist() == pytest.approx([2 / 6, 1 / 2, 1, 1, 1 / 6])


def test_a_word_that_never_followed_has_probability_zero() -> None:
    found = infinigram.score(np.array([1, 2, 3]), np.array([1, 9, 9]), np.array([0]))
    assert np.isneginf(found.logprob[1]) and np.isneginf(found.logprob[2])
    assert found.length.tolist() == [0, 1, 0]


def test_the_suffix_array_is_the_lexical_order_of_all_ends() -> None:
    tokens = np.random.default_rng(0).choice([0, 1, 255, 256, 65_536], 200).astype(np.uint32)
    ends = sorted(range(200), key=lambda start: tokens[start:].tolist())
    assert infinigram.suffix_array(tokens).tolist() == ends
