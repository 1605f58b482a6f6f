"""Configuration: refused early, by name, in one line; generated files in step with the settings."""

import copy
import json
import re
import resource
import subprocess
import sys
from typing import get_args

import jsonschema
import pytest
import torch
import yaml
from conftest import ROOT, snakemake

sys.path.insert(0, str(ROOT / "workflow"))
import generated
import study as workflow_study

from knnlm.corpora import sources
from knnlm.datastores import ann
from knnlm.models.model import LanguageModel
from knnlm.settings import (
    KEYTYPES,
    METRICS,
    Corpus,
    CorpusSettings,
    Index,
    IndexSettings,
    ModelConfig,
    Vocab,
    VocabSettings,
    texts,
)

STUDIES = [
    f"config/{name}.yaml"
    for name in ("smoke", "mini", "onegpu", "paper", "your-corpus", "pretrained", "finetuned", "gpt2")
]
STUDIES += ["tests/data/fairseq/study.yaml"]


@pytest.mark.parametrize("path", STUDIES)
def test_the_studies_that_come_along_are_valid(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    workflow_study.load(yaml.safe_load((ROOT / path).read_text()))


@pytest.mark.parametrize("path", generated.files(), ids=lambda path: path.name)
def test_generated_files_are_those_of_the_settings(path):
    assert path.read_text(encoding="utf-8") == generated.files()[path], "run: python workflow/study.py --schemas"


def test_the_readme_has_the_keys_of_every_part():
    text = (ROOT / "config/README.md").read_text()
    for name, model in generated.TABLES.items():
        assert f"<!-- keys of {name} -->" in text
        assert all(f"`{key}`" in text or f"`{key}." in text for key in model.model_fields), name


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("study", STUDIES),
        (
            "sheet",
            [
                f"config/experiments/{name}.yaml"
                for name in ("paper", "onegpu", "table1", "pretrained", "finetuned", "gpt2")
            ],
        ),
        ("archives", ["config/archives.yaml"]),
    ],
)
def test_files_that_come_along_fit_their_schemas(name, paths):
    schema = yaml.safe_load((ROOT / f"workflow/schemas/{name}.schema.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in paths:
        jsonschema.validate(yaml.safe_load((ROOT / path).read_text()), schema)


@pytest.mark.parametrize(
    ("of_a_study", "of_a_command", "more"),
    [
        (Corpus, CorpusSettings, {"subset_of", "fraction", "token_shards"}),
        (Vocab, VocabSettings, {"corpora", "archive", "path"}),
        (Index, IndexSettings, set()),
    ],
)
def test_a_command_knows_the_keys_that_its_rule_passes_on(of_a_study, of_a_command, more):
    assert set(of_a_study.model_fields) - more == set(of_a_command.model_fields) - ({"seed"} if more else set())


def test_what_settings_name_is_what_the_library_has():
    lm = LanguageModel(ModelConfig(vocab_size=8, layers=2, dim=4, ffn_dim=4, heads=1))
    lm(torch.zeros(1, 1, dtype=torch.int64), taps := {})
    assert set(taps) == set(KEYTYPES) and len(KEYTYPES) == 12
    assert set(sources.READERS) == set(get_args(texts.SourceKind))
    assert set(ann.METRICS) == set(METRICS)


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


def test_several_mistakes_are_told_by_the_nearest_to_the_top(smoke_config, monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong = broken(smoke_config, ("models", "wikitext", "vocb"), "words")
    del wrong["models"]["wikitext"]["vocab"]
    wrong["models"]["wikitext"]["training"] |= {"lr": "high", "warmup": 10**6}
    with pytest.raises(
        workflow_study.StudyError, match=r"models\.wikitext: unknown key 'vocb'; did you mean 'vocab'\?"
    ):
        workflow_study.load(wrong)


def test_a_dry_run_imports_neither_torch_nor_numpy():
    program = "import json, sys; import references, resources, study; print(json.dumps(sorted(sys.modules)))"
    environment = {"PYTHONPATH": f"{ROOT / 'workflow'}:{ROOT}"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "knnlm.settings" in json.loads(run.stdout)
    assert not {"torch", "numpy", "faiss", "numba"} & set(json.loads(run.stdout))


def test_the_study_for_one_gpu_fits_a_day_on_it():
    command = [ROOT / "workflow/plan.py", "--rates", ROOT / "workflow/rates-24gb.yaml", "--gpus", 1]
    command += ["--configfile", "config/onegpu.yaml", "--forceall"]
    run = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=True)
    said = re.search(r"wall time with 1 GPU: (\d+) h", run.stdout)
    assert said and int(said[1]) <= 24
    comment = (ROOT / "config/onegpu.yaml").read_text().split("\nstudy:")[0].replace("\n#", "")
    assert all(line in comment for line in (said[0], re.search(r"peak disk with 1 GPU: \d+ GB", run.stdout)[0]))


def test_the_paper_study_dry_runs_in_seconds():
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run = snakemake("-n", "--configfile", "config/paper.yaml", "--quiet")
    assert run.returncode == 0, run.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5  # seconds; 1.7 on an idle machine


def test_a_row_that_tunes_its_temperature_is_scored_at_each_of_the_grid(smoke_config, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sheet = yaml.safe_load((ROOT / smoke_config.get("experiments", "config/experiments/paper.yaml")).read_text())
    (knn,) = [row for row in sheet["table1"] if row["name"] == "knn"]
    sheet["table1"].append(knn | {"name": "tuned", "temperature": "tune"})
    (tmp_path / "sheet.yaml").write_text(yaml.safe_dump(sheet))
    grid = [0.25, 8, 1]
    changed = smoke_config | {"experiments": str(tmp_path / "sheet.yaml")}
    changed["retrieval"] = changed.get("retrieval", {}) | {"temperatures": grid}
    before, after = workflow_study.load(smoke_config), workflow_study.load(changed)
    (row,) = [row for row in after["sheet"]["table1"] if row["name"] == "tuned"]
    where = {key: row[key] for key in ("model", "corpus", "datastore", "keytype", "index", "shards")}
    asked = [[row["distance"], row["k"], temperature] for temperature in grid]
    plain = workflow_study.scores_needed(before, "test", **where)
    found = [tuple(score) for score in workflow_study.scores_needed(after, "test", **where)]
    assert found == sorted({tuple(score) for score in plain + asked})


@pytest.mark.parametrize(
    ("given", "named", "factory"),
    [
        ({}, "auto", "auto"),
        ({"indexes": {"flat": {"factory": "Flat"}, "ivfpq": {}}}, "flat", "Flat"),
        ({"indexes": {"flat": {"factory": "Flat"}, "mine": {}}, "retrieval": {"index": "mine"}}, "mine", "auto"),
    ],
)
def test_a_study_without_an_index_has_one_that_fits_and_rows_take_the_first(monkeypatch, given, named, factory):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config/your-corpus.yaml").read_text())
    assert not {"indexes", "retrieval"} & set(config)
    study = workflow_study.load(config | given)
    assert {row["index"] for row in workflow_study.rows(study) if row["datastore"]} == {named}
    assert study["retrieval"]["index"] == named and study["indexes"][named]["factory"] == factory


def test_no_index_at_all_is_refused(smoke_config, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(workflow_study.StudyError, match=re.escape("indexes: found {}; allowed: at least 1 key")):
        workflow_study.load(smoke_config | {"indexes": {}})


def test_the_largest_sample_is_that_of_the_indexes_that_search_a_datastore():
    """Not the sum, the first or the least of them, nor one of an index of another datastore."""
    searched = [("books", "small"), ("books", "large"), ("books", "middle"), ("wiki", "huge"), (None, None)]
    study = {
        "sheet": {"table1": [{"datastore": store, "index": index} for store, index in searched]},
        "indexes": {"small": {"sample": 10}, "large": {"sample": 30}, "middle": {"sample": 20}, "huge": {"sample": 99}},
    }
    assert workflow_study.largest_sample(study, "books") == 30
    assert workflow_study.searched_with(study, "books") == ["large", "middle", "small"]
