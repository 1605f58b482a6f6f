"""After a kill at any moment, the same command again leaves exactly the files of an undisturbed run."""

import random
import re

import pytest
from test_layering import VERBS
from victims import COMMANDS

SEED = 20240607
BEFORE_A_CHANGE, AT_A_TIME = 3, 2  # kills of each verb
READERS = {"generate", "mix", "provenance", "query", "verify"}  # verbs that write no file
QUICK = {
    "extract": 9,
    "extract:stream": 30,
    "train": 31,
    "train:initial": 17,
    "search": 12,
    "binarize": 7,
}  # number of the change before which each is killed


@pytest.fixture(scope="module")
def undisturbed(victims):
    """A function that returns a verb's outputs and how its undisturbed run ended, run once for each verb."""
    results = {}

    def run(verb):
        if verb not in results:
            victims.clear()
            ended = victims.run(verb)
            assert ended.code == 0, ended.text
            results[verb] = (victims.outputs(), ended)
        return results[verb]

    return run


def check_again(victims, verb, whole):
    """After a kill, nothing incomplete has a final name, and the same command again ends with the same bytes.

    Returns what that command printed.
    """
    left = victims.outputs()
    for name, digest in left.items():
        if not any(part.startswith(".") for part in name.split("/")) and digest:
            assert digest == whole[name], f"{name} is not what an undisturbed run writes"
    ended = victims.run(verb)
    assert ended.code == 0, ended.text
    assert victims.outputs() == whole
    return ended.text


def test_every_verb_that_writes_is_killed():
    assert {name.partition(":")[0] for name in COMMANDS} == VERBS - READERS


@pytest.mark.parametrize("verb", QUICK)
def test_killed_before_one_change_of_the_file_system(victims, undisturbed, verb):
    whole, _ = undisturbed(verb)
    victims.clear()
    assert victims.run(verb, fatal=QUICK[verb]).code == -9
    check_again(victims, verb, whole)


@pytest.mark.parametrize("verb", ["extract", "extract:stream"])
def test_a_killed_extraction_goes_on(victims, undisturbed, verb):
    whole, ended = undisturbed(verb)
    victims.clear()
    assert victims.run(verb, fatal=ended.changes // 2).code == -9
    kept = int(re.search(r"(\d+) steps were finished before", check_again(victims, verb, whole))[1])
    assert kept > 0


@pytest.mark.slow
@pytest.mark.parametrize("verb", COMMANDS)
def test_killed_before_any_change_of_the_file_system(victims, undisturbed, verb):
    whole, ended = undisturbed(verb)
    for fatal in sorted(random.Random(f"{SEED} {verb}").sample(range(1, ended.changes + 1), BEFORE_A_CHANGE)):
        print(f"{verb}: killed before change {fatal} of {ended.changes}")
        victims.clear()
        assert victims.run(verb, fatal=fatal).code == -9
        check_again(victims, verb, whole)


@pytest.mark.slow
@pytest.mark.parametrize("verb", COMMANDS)
def test_killed_at_any_time(victims, undisturbed, verb):
    whole, ended = undisturbed(verb)
    generator = random.Random(f"{SEED} {verb} time")
    for _ in range(AT_A_TIME):
        seconds = generator.random() * ended.seconds
        victims.clear()
        code = victims.run(verb, seconds=max(seconds, 1e-6)).code
        print(f"{verb}: killed {seconds:.3f} s after its first change of {ended.seconds:.3f}: exit code {code}")
        check_again(victims, verb, whole)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["extract", "extract:stream", "train", "train:initial", "search", "train_index"])
def test_killed_again_and_again(victims, undisturbed, verb):
    whole, ended = undisturbed(verb)
    victims.clear()
    for fatal in sorted(random.Random(f"{SEED} {verb} again").sample(range(1, ended.changes), 3)):
        victims.run(verb, fatal=fatal)
    check_again(victims, verb, whole)
