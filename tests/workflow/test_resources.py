"""What jobs ask of a machine: a formula for every rule, in step with the profiles."""

import re
import sys

import pytest
import yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT / "workflow"))
import plan
from resources import Formulas, directives
from study import load

from knnlm.settings import OTHER_KEYTYPES, Factory

RULE = re.compile(r"(?m)^ *(?:use )?rule (?:\w+ as )?(\w*)(?: with)?:|^ *rule:")
W = {"seed": "1", "keytype": "ffn_input_ln", "index": "ivfpq", "shards": "8", "shard": "0", "first": "8"}
WIKITEXT = W | {"model": "wikitext", "corpus": "wikitext", "datastore": "wikitext", "vocab": "words", "split": "dev"}


@pytest.fixture
def formulas(monkeypatch):
    def of(name):
        monkeypatch.chdir(ROOT)
        study = load(yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
        return Formulas(study, len(OTHER_KEYTYPES))

    return of


def rules():
    """(name, body) of each rule; a rule made in a loop has no name here."""
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        text = path.read_text()
        starts = [*RULE.finditer(text)]
        for match, end in zip(starts, [*(after.start() for after in starts[1:]), len(text)], strict=False):
            yield match[1], text[match.end() : end]


def test_every_rule_that_a_cluster_runs_has_a_formula():
    for name, body in rules():
        if "shell:" in body and "localrule: True" not in body and name != "verify":
            assert "needs(" in body and "cpus(" in body, name


def test_a_small_study_stays_on_one_core(formulas):
    smoke = formulas("smoke")
    for rule in ("prepare", "train", "evaluate", "extract", "train_index", "add", "search", "score_cache"):
        needs = getattr(smoke, rule)(WIKITEXT | {"shards": "1", "index": "fast"})
        assert needs.cpus == 1 and needs.minutes < 45 and needs.mem_mb < 8000, rule


def test_the_papers_sizes(formulas):
    paper = formulas("paper")
    train = paper.train(WIKITEXT)
    assert train.gpus == 8 and 50 < train.hours < 200
    keys = paper.extract(WIKITEXT)
    assert keys.gpus == 1 and 8 * keys.disk == pytest.approx(211, rel=0.05)  # GB, as the paper's datastore
    assert 8 * paper.add(WIKITEXT).disk == pytest.approx(7.4, rel=0.05)


def test_a_retry_asks_for_more(formulas):
    given = directives(formulas("smoke"), "search", {})
    for name in ("mem_mb", "runtime"):
        assert given[name](WIKITEXT, 3) == 3 * given[name](WIKITEXT, 1)


def test_bytes_of_an_index_entry():
    assert Factory.parse("IVF4096,PQ64x8").entry_bytes(1024) == 72
    assert Factory.parse("IVF1024,PQ64x4fs").entry_bytes(128) == 40
    assert Factory.parse("Flat").entry_bytes(128) == 520


def test_the_slurm_profile_names_rules_that_exist_and_no_job_array():
    profile = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
    names = [name for name, _ in rules()] + [f"stream_{name}" for name in ("wikitext", "wiki", "books")]
    assert set(profile["set-resources"]) <= set(names)
    assert not any("array" in key for key in profile)
    assert profile["slurm-requeue"] is True and profile["configfile"] == "config/paper.yaml"


def test_the_plan_adds_up():
    text = """rule extract:
    threads: 4
    resources: tmpdir=/tmp, mem_mb=4000, mem=4 GB, disk_mb=2000, runtime=30, gpu=1, gpu_model=a100
rule extract:
    resources: mem_mb=8000, runtime=90, disk_mb=1000, gpu=1
localrule table:
    output: x"""
    cost = plan.costs(plan.jobs(text.splitlines()))
    assert cost["datastores", "extract"] == {
        **{"jobs": 2, "gpu_hours": 2, "cpu_hours": 3.5, "memory": 8, "disk": 3, "longest": 1.5}
    }
    assert cost["outputs", "tables, figures"]["jobs"] == 1
    assert plan.table(cost).splitlines()[-1].split() == ["all", "3", "2", "4", "1.5", "8", "3"]
