"""Which tokens are context and which are predicted, by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnlm.artifacts.files import UserError
from knnlm.models import windows
from knnlm.models.windows import EOS
from knnlm.settings import WindowSettings


def as_tuples(found):
    return list(zip(*(array.tolist() for array in found), strict=True))


def test_fixed_windows_step_by_new_tokens_and_look_back_as_far_as_there_is():
    found = windows.evaluation(np.arange(10), WindowSettings(new=4, context=3))
    assert as_tuples(found) == [(0, 0, 4), (1, 4, 8), (5, 8, 10)]


def test_complete_windows_pack_whole_lines():
    tokens = np.array([9, 9, EOS, 9, EOS, 9, 9, 9, 9, 9, EOS, EOS])  # lines of 3, 2, 6 and 1 tokens
    found = windows.evaluation(tokens, WindowSettings(new=5, context=2, mode="complete"))
    assert as_tuples(found) == [(0, 0, 5), (4, 5, 11), (9, 11, 12)]


def test_a_line_longer_than_the_window_shrinks_the_context():
    tokens = np.array([9, EOS, 9, 9, 9, 9, EOS])
    found = windows.evaluation(tokens, WindowSettings(new=2, context=4, mode="complete"))
    assert as_tuples(found)[1] == (1, 2, 7)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 60), st.sampled_from(["fixed", "complete"]))
def test_evaluation_predicts_every_token_exactly_once(total, new, context, mode):
    tokens = np.random.default_rng(total).integers(2, 6, total)
    found = windows.evaluation(tokens, WindowSettings(new=new, context=context, mode=mode))
    assert np.array_equal(
        np.concatenate([np.arange(a, b) for a, b in zip(found.start, found.end, strict=True)]), np.arange(total)
    )
    assert (found.start - found.begin <= context).all()


def test_datastore_windows_all_have_a_full_context_and_keep_the_last_partial_one():
    found = windows.datastore(23, WindowSettings(new=5, context=5), seed=1)
    assert sorted(as_tuples(found)) == [(0, 5, 10), (5, 10, 15), (10, 15, 20), (15, 20, 23)]


def test_a_corpus_shorter_than_the_context_is_refused():
    with pytest.raises(UserError, match="5 tokens"):
        windows.datastore(5, WindowSettings(new=5, context=5), seed=1)


@given(st.integers(1, 7), st.integers(0, 5))
def test_shards_are_cuts_of_one_order_whatever_their_number(shards, seed):
    whole = windows.datastore(400, WindowSettings(new=10, context=10), seed)
    cuts = [windows.shard(whole, i, shards) for i in range(shards)]
    assert np.array_equal(np.concatenate([cut.start for cut in cuts]), whole.start)


def test_more_shards_than_windows_are_refused():
    whole = windows.datastore(30, WindowSettings(new=10, context=10), 1)
    with pytest.raises(UserError, match="2 windows"):
        windows.shard(whole, 0, 3)


def test_inputs_are_the_targets_shifted_by_one_with_eos_first():
    tokens = np.array([11, 12, 13, 14, 15])
    inputs, targets, predicted = windows.batch(tokens, windows.evaluation(tokens, WindowSettings(new=3, context=1)), 4)
    assert inputs.tolist() == [[EOS, 11, 12, EOS], [12, 13, 14, EOS]]
    assert targets[predicted].tolist() == [11, 12, 13, 14, 15]


def test_training_blocks_cover_each_epoch_once_in_another_order():
    epochs = [
        np.concatenate([windows.training(100, 10, 5, update, seed=3).start for update in pair])
        for pair in ((0, 1), (2, 3))
    ]
    assert [sorted(epoch.tolist()) for epoch in epochs] == [list(range(0, 100, 10))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_datastore_windows_are_in_the_order_of_the_seed(seed):
    found = windows.datastore(203, WindowSettings(new=10, context=20), seed)
    order = np.random.default_rng(seed).permutation(np.arange(20, 203, 10)).tolist()
    assert as_tuples(found) == [(start - 20, start, min(start + 10, 203)) for start in order]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_training_blocks_are_in_the_order_of_the_seed_and_the_epoch(seed):
    updates = [windows.training(98, 10, 4, update, seed) for update in range(5)]  # two epochs of ten blocks
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(10) for epoch in (0, 1)]) * 10
    found = [pair for update in updates for pair in zip(update.start.tolist(), update.end.tolist(), strict=True)]
    assert found == [(start, min(start + 10, 98)) for start in order.tolist()]


@pytest.mark.parametrize(("size", "fits"), [(43, True), (42, False)])
def test_the_last_word_of_a_vocabulary_is_inside_and_the_next_is_not(size, fits):
    tokens, paths = np.array([0, 42, 7]), ("dev.npy", "model")
    if fits:
        windows.check_words(tokens, size, *paths)
    else:
        with pytest.raises(UserError, match=r"dev\.npy: token 42 is outside model's 42 words"):
            windows.check_words(tokens, size, *paths)


@pytest.mark.parametrize("length", range(1, 8))
def test_a_block_and_its_context_fill_the_window_and_no_more(length):
    """A line of `length` tokens at the stream's end; a window has 3 + 2 tokens."""
    tokens = np.array([9] * 9 + [EOS] + [9] * (length - 1) + [EOS])
    begin, start, end = as_tuples(windows.evaluation(tokens, WindowSettings(new=3, context=2, mode="complete")))[-1]
    assert (begin, start, end) == (10 - max(0, min(2, 5 - length)), 10, 10 + length)


def lines_of(lengths, seed=0):
    """A stream of lines of so many tokens each, the last of which ends it."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.append(rng.integers(3, 40, length - 1), EOS) for length in lengths])


def read_as_published(tokens, new, context):
    """The published loop: blocks of whole lines, without those beyond the positions, after the tokens read before.

    Yields the inputs of each block, and where in the stream its targets are.
    """
    ends, blocks, start = np.flatnonzero(tokens == EOS) + 1, [], 0
    for end, following in zip(ends, [*ends[1:], None], strict=True):
        if following is None or following - start > new:
            blocks.append((start, int(end)))
            start = int(end)
    before = []
    for start, end in blocks:
        if end - start > new + context:
            continue
        source = [EOS if start == 0 else int(tokens[start - 1]), *tokens[start : end - 1].tolist()]
        before = before[max(0, len(before) + len(source) - new - context) :]
        yield before + source, range(start, end)
        before = (before + source)[-context:] if context else []


@pytest.mark.parametrize(("new", "context"), [(6, 6), (6, 3), (5, 0), (12, 4)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_published_reading_drops_lines_that_are_too_long(new, context, seed):
    """Among them the first line, two in a row, one of exactly the positions and one of a token more."""
    positions = new + context
    lengths = [positions + 3, 2, 3, positions, positions + 1, positions + 9, 4, 1, *range(1, positions + 4, 2), 2]
    tokens = lines_of([lengths, lengths[1:], lengths[::-1]][seed], seed)
    ids, found = windows.published(tokens, WindowSettings(new=new, context=context, mode="published"))
    expected = list(read_as_published(tokens, new, context))
    assert ids.tolist() == [position for _, targets in expected for position in targets]
    assert 0 < len(ids) < len(tokens)
    kept = tokens[ids]
    for row, (inputs, targets) in enumerate(expected):
        given_inputs, given_targets, predicted = windows.batch(kept, found.take(np.array([row])), 1)
        assert given_inputs[0, : len(inputs)].tolist() == inputs
        assert given_targets[0][predicted[0]].tolist() == tokens[list(targets)].tolist()


def test_without_long_lines_the_published_reading_is_the_complete_one():
    tokens, sizes = lines_of([3, 1, 5, 2, 8, 4]), {"new": 5, "context": 3}
    ids, found = windows.published(tokens, WindowSettings(**sizes, mode="published"))
    complete = windows.evaluation(tokens, WindowSettings(**sizes, mode="complete"))
    assert as_tuples(found) == as_tuples(complete) and ids.tolist() == list(range(len(tokens)))


def test_a_text_of_long_lines_alone_is_refused():
    with pytest.raises(UserError, match="all lines are longer than 8 tokens"):
        windows.published(lines_of([9, 12]), WindowSettings(new=5, context=3, mode="published"))


def test_of_wikitext2_the_published_reading_scores_as_many_tokens_as_the_published_code():
    """With 256 positions it left out 74 lines of dev, and scored 195,563 of 217,646 tokens."""
    lengths = np.load(Path(__file__).parents[1] / "data/wikitext2_lines.npy")
    ids, _ = windows.published(lines_of(lengths), WindowSettings(new=128, context=128, mode="published"))
    assert np.count_nonzero(lengths > 256) == 74
    assert (len(ids), lengths.sum()) == (195_563, 217_646)
