"""Configuration: refused early, by name, in one line; schemas in step with the code."""

import copy
import dataclasses
import sys

import pytest
import yaml
from conftest import ROOT, snakemake

sys.path.insert(0, str(ROOT / "workflow"))
import study as workflow_study

from knnlm.corpora import corpus, vocab
from knnlm.datastores import ann
from knnlm.models import model, train
from knnlm.scores import interpolate

SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/study.schema.yaml").read_text())["properties"]


@pytest.mark.parametrize("name", ["smoke", "mini", "paper"])
def test_the_studies_that_come_along_are_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    workflow_study.load(yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))


def keys_of(schema):
    return set(schema["additionalProperties"]["properties"])


@pytest.mark.parametrize(
    ("schema_keys", "settings", "elsewhere"),
    [
        (keys_of(SCHEMA["corpora"]) - {"subset_of", "fraction", "token_shards"}, corpus.CorpusSettings, {"seed"}),
        (keys_of(SCHEMA["vocabs"]) - {"corpora"}, vocab.VocabSettings, {"seed"}),
        (keys_of(SCHEMA["indexes"]), ann.IndexSettings, set()),
        (
            set(SCHEMA["models"]["additionalProperties"]["properties"]["architecture"]["properties"]),
            model.ModelConfig,
            {"vocab_size"},
        ),
        (
            set(SCHEMA["models"]["additionalProperties"]["properties"]["training"]["properties"]),
            train.TrainingSettings,
            set(),
        ),
        (set(SCHEMA["mixture"]["properties"]), interpolate.InterpolateSettings, {"seed"}),
    ],
)
def test_schema_and_settings_have_the_same_keys(schema_keys, settings, elsewhere):
    assert schema_keys | elsewhere == {field.name for field in dataclasses.fields(settings)}


def test_key_types_are_the_models():
    found = {*workflow_study.LAYER_KEYTYPES, *(k + model.SECOND_LAST for k in workflow_study.LAYER_KEYTYPES)}
    assert workflow_study.LAYER_KEYTYPES == model.KEYTYPES
    assert found == {workflow_study.MAIN_KEYTYPE, *workflow_study.OTHER_KEYTYPES}


def broken(study, path, value):
    study = copy.deepcopy(study)
    part = study
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return study


WRONG = [
    (("datastoers",), {}, "unknown key 'datastoers'; did you mean 'datastores'?"),
    (("models", "wikitext", "archtecture"), {}, "did you mean 'architecture'?"),
    (("models", "wikitext", "corpus"), "wikitxt", "corpora has no 'wikitxt'; did you mean 'wikitext'?"),
    (("models", "wikitext", "training", "updates"), "many", "models.wikitext.training.updates"),
    (("models", "wikitext", "training", "optimizer"), "sgd", "allowed: nag, adamw"),
    (("corpora", "wiki-small", "subset_of"), "nowhere", "corpora.wiki-small.subset_of"),
    (("corpora", "wiki-small", "fraction"), 1.5, "corpora.wiki-small.fraction"),
    (("vocabs", "words", "corpora"), [], "vocabs.words.corpora"),
    (("indexes", "fast", "metric"), "cosine", "allowed: l2, ip"),
    (("retrieval", "index"), "ivfqp", "did you mean 'ivfpq'?"),
    (("retrieval", "k"), 0, "retrieval.k"),
    (("datastores", "wkiki"), {}, "datastores.wkiki"),
    (("experiments",), "nowhere.yaml", "nowhere.yaml is not a file"),
    (("study",), "a b", "study"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[".".join(path) for path, _, _ in WRONG])
def test_a_wrong_study_is_refused_by_name(smoke_config, monkeypatch, path, value, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(workflow_study.StudyError) as caught:
        workflow_study.load(broken(smoke_config, path, value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_snakemake_prints_one_line_and_exits_with_1(smoke_config, configured):
    run = snakemake("-n", "--configfile", configured(broken(smoke_config, ("models", "wikitext", "vocab"), "word")))
    assert run.returncode == 1
    assert [line for line in run.stderr.splitlines() if line.startswith("error:")] == [
        "error: models.wikitext.vocab: vocabs has no 'word'; did you mean 'words'? allowed: subwords, words"
    ]
    assert "Traceback" not in run.stderr


def test_the_paper_study_dry_runs():
    run = snakemake("-n", "--configfile", "config/paper.yaml", "--quiet")
    assert run.returncode == 0, run.stderr
