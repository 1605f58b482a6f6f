"""Settings: taken as written, recorded in one form, and refused in one line that names the key."""

import json

import pytest
from pydantic import ValidationError

from knnlm.artifacts import cli, files
from knnlm.settings import (
    Architecture,
    CorpusSettings,
    Factory,
    IndexSettings,
    InterpolateSettings,
    Model,
    ModelConfig,
    TrainingSettings,
    VocabSettings,
    WindowSettings,
    explain,
    fitting,
)


def test_the_defaults_are_the_papers():
    lm, recipe, windows = Architecture(), TrainingSettings(), Model(corpus="wiki", vocab="words").windows
    assert (lm.layers, lm.dim, lm.ffn_dim, lm.heads) == (16, 1024, 4096, 16)
    assert (recipe.optimizer, recipe.lr, recipe.warmup, recipe.updates) == ("nag", 1.0, 16000, 286000)
    assert (windows.evaluation.length, windows.datastore.length) == (3072, 3072)
    assert (IndexSettings().factory, IndexSettings().nprobe) == ("IVF4096,PQ64x8", 32)


def test_what_artifacts_record_keeps_its_form():
    recorded = json.loads(json.dumps({"index": IndexSettings(), "windows": WindowSettings(new=2, context=0)}, **AS))
    assert recorded["windows"] == {"new": 2, "context": 0, "mode": "fixed"}
    assert recorded["index"] == {
        **{"factory": "IVF4096,PQ64x8", "metric": "l2", "nprobe": 32, "sample": 1000000, "seed": 1}
    }
    corpus = CorpusSettings(sources=[{"kind": "sotu", "archive": "sotu"}], dev_titles=["a"])
    assert json.loads(json.dumps(corpus, **AS)) == {
        **{"sources": [{"kind": "sotu", "archive": "sotu"}], "dev_words": 0, "test_words": 0, "dev_titles": ["a"]},
        **{"test_titles": [], "train_words": None, "document_words": None, "held_out_document_words": None},
        **{"held_out_overlap": None, "near_duplicates": None, "seed": 1, "pretokenized": False},
    }


AS = {"default": files.jsonable}


def test_a_number_stays_as_it_was_written():
    recipe = cli.settings(TrainingSettings, '{"lr": 1, "clip_norm": 0.5}', "--training")
    assert json.dumps(recipe.model_dump(include={"lr", "clip_norm"})) == '{"lr": 1, "clip_norm": 0.5}'
    assert json.loads(recipe.model_dump_json(include={"lr"})) == {"lr": 1} and isinstance(recipe.lr, int)


def test_a_list_becomes_a_tuple_and_nothing_in_it_is_converted():
    assert Architecture(adaptive_cutoffs=[10, 20]).adaptive_cutoffs == (10, 20)
    with pytest.raises(ValidationError):
        Architecture(adaptive_cutoffs=[10.0, 20])


def test_settings_never_change():
    with pytest.raises(ValidationError):
        Architecture().dim = 8


@pytest.mark.parametrize(
    ("settings", "text", "line"),
    [
        (TrainingSettings, '{"updats": 3}', "unknown key 'updats'; did you mean 'updates'? allowed: block, clip_norm,"),
        (TrainingSettings, '{"updates": 3.0}', "updates: found 3.0, expected a whole number"),
        (TrainingSettings, '{"updates": 3, "warmup": 4}', "warmup: found 4, updates is 3; allowed: at most updates"),
        (TrainingSettings, "[]", "found [], expected a mapping of keys"),
        (TrainingSettings, "{", "found '{', expected JSON (Expecting property name"),
        (WindowSettings, '{"new": 3}', "key 'context' is missing"),
        (WindowSettings, '{"new": 3, "context": 0, "mode": "fixd"}', "mode: found 'fixd'; did you mean 'fixed'?"),
        (IndexSettings, '{"nprobe": 0}', "nprobe: found 0; allowed: at least 1"),
        (IndexSettings, '{"factory": "Nonsense"}', "factory: found 'Nonsense'; allowed: FAISS factory strings [OPQm"),
        (IndexSettings, '{"factory": "IVF8,Flat", "nprobe": 9}', "nprobe: found 9, factory IVF8,Flat has 8 lists"),
        (InterpolateSettings, '{"lmbda": [0.5, "x"]}', "lmbda[1]: found 'x', expected a finite number"),
        (InterpolateSettings, '{"lmbda": [0.5, 0.2]}', "lmbda: found [0.5, 0.2]; allowed: rising numbers"),
        (CorpusSettings, "{}", "key 'sources' is missing"),
        (CorpusSettings, '{"sources": [{"kind": "sotu"}]}', "sources[0]: needs one of the keys archive, path"),
        (VocabSettings, '{"type": "bert"}', "key 'file' is missing"),
        (ModelConfig, '{"dim": 64, "heads": 5, "vocab_size": 9}', "heads: found 5, dim is 64; allowed: a divisor of"),
        (
            ModelConfig,
            '{"vocab_size": 9, "adaptive_cutoffs": [8]}',
            "adaptive_cutoffs: found [8], the vocabulary has",
        ),
    ],
)
def test_a_command_names_the_key_what_was_found_and_what_is_allowed(settings, text, line):
    with pytest.raises(files.UserError) as caught:
        cli.settings(settings, text, "--settings")
    assert str(caught.value).startswith(f"--settings: {line}") and "\n" not in str(caught.value)


def test_a_list_is_not_called_too_short_where_an_entry_is_wrong():
    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"corpus": "wiki", "vocab": "words", "seeds": ["one"]})
    assert str(explain(caught.value, Model)) == "seeds[0]: found 'one', expected a whole number"


@pytest.mark.parametrize("nprobe", [None, 8])
def test_an_index_with_fewer_lists_than_the_default_visits_them_all(nprobe):
    given = {} if nprobe is None else {"nprobe": nprobe}
    assert IndexSettings(factory="IVF8,Flat", **given).parsed.lists == 8


@pytest.mark.parametrize(
    ("entries", "dimension", "factory"),
    [
        *((0, 128, "Flat"), (199_999, 1024, "Flat"), (200_000, 128, "IVF512,PQ64x4fsr")),
        *((1_730_123, 128, "IVF1024,PQ64x4fsr"), (10_000_000, 1024, "IVF4096,PQ256x4fsr")),
        *((103_000_000, 576, "IVF8192,PQ192x4fsr"), (200_000, 4096, "IVF512,PQ256x4fsr")),
        *((200_000, 8192, "IVF512,SQ8"), (200_000, 254, "IVF512,SQ8"), (200_000, 127, "IVF512,SQ8")),
        *((200_000, 1, "IVF512,SQ8"), (200_000, 2, "IVF512,SQ8"), (200_000, 4, "IVF512,PQ2x4fsr")),
    ],
)
def test_an_automatic_index_follows_from_entries_and_dimensions(entries, dimension, factory):
    assert IndexSettings(factory="auto", seed=3).chosen(entries, dimension) == IndexSettings(factory=factory, seed=3)
    assert IndexSettings(factory="IVF8,Flat").chosen(entries, dimension).factory == "IVF8,Flat"


def test_parts_of_an_automatic_index_divide_every_dimension_evenly():
    for dimension in range(1, 1100):
        parsed = Factory.parse(fitting(300_000, dimension))
        allowed = [n for n in range(2, 257, 2) if dimension % n == 0 and 2 <= dimension // n <= 16]
        assert parsed.parts == max(allowed, default=0) and parsed.bits == (4 if allowed else 8), dimension


@pytest.mark.parametrize("entries", [200_000, 362_038, 362_039, 1_448_154, 1_448_155, 10**8])
def test_lists_of_an_automatic_index_are_a_power_of_two_nearest_to_the_root(entries):
    lists, root = Factory.parse(fitting(entries, 128)).lists, entries**0.5
    powers = [2**n for n in range(20)]
    assert lists == min(powers, key=lambda power: max(power / root, root / power))
