"""Text that documents share, compared with brute force."""

import numpy as np
import pytest

from knnlm.corpora import overlap


def windows(text: str, order: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]


@pytest.mark.parametrize(("seed", "order"), [(0, 1), (1, 2), (2, 3), (3, 8)])
def test_hashes_are_equal_where_the_words_are_in_the_same_order(seed: int, order: int) -> None:
    text = " ".join(np.random.default_rng(seed).choice(list("abc"), 120))
    hashes, expected = overlap.ngrams(text, order), windows(text, order)
    assert len(hashes) == len(expected) and len({*hashes.tolist()}) == len({*expected})
    numbers: dict[tuple[str, ...], int] = {}
    assert all(numbers.setdefault(window, value) == value for window, value in zip(expected, hashes, strict=True))


@pytest.mark.parametrize("words", [0, 1, 7, 8])
def test_a_text_of_fewer_words_has_no_ngram(words: int) -> None:
    assert len(overlap.ngrams("a " * words)) == max(0, words - 7)


@pytest.mark.parametrize("least", [1, 2])
def test_shares_are_those_of_brute_force(least: int) -> None:
    rng = np.random.default_rng(least)
    texts = [" ".join(rng.choice(list("abcdefgh"), size)) for size in (30, 8, 3, 60, 25)]
    texts[4] = f"{texts[3][:60]} {texts[4]}"
    grams = [{*windows(text, 3)} for text in texts]
    found = overlap.shares(
        [overlap.ngrams(text, 3) for text in texts], (overlap.ngrams(text, 3) for text in texts), least
    )
    for text, share in zip(texts, found, strict=True):
        counts = [sum(window in other for other in grams) for window in windows(text, 3)]
        assert share == pytest.approx(np.mean([count >= least for count in counts]))


@pytest.mark.parametrize("seed", [1, 2])
def test_only_documents_that_are_similar_enough_are_near_duplicates(seed: int) -> None:
    """Those of Jaccard similarity 0.74, at a threshold of 0.5; not those of 0.34, nor the same words mixed."""
    rng, texts, expected = np.random.default_rng(seed), [], set()
    for pair in range(40):
        words = [f"{pair}w{i}" for i in range(404)]
        similar = pair % 2
        shared = 344 if similar else 208  # words: 340 of 460 different 5-grams, or 204 of 596
        other = words[:shared] + [f"{pair}v{i}" for i in range(404 - shared)]
        mixed = rng.permutation(words).tolist()
        expected |= {len(texts) + 1} if similar else set()
        texts += [" ".join(words), " ".join(other), " ".join(mixed)]
    assert overlap.near_duplicates(texts, 0.5, seed) == expected
