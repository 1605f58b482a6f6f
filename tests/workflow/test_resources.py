"""What jobs ask of a machine: a formula for every rule, in step with the profiles."""

import json
import logging
import os
import re
import sys
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import yaml
from conftest import ROOT, snakemake
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings
from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file
from snakemake_executor_plugin_slurm.utils import set_gres_string

sys.path.insert(0, str(ROOT / "workflow"))
import rates
from checking import StudyError
from machines import Machines
from resources import Formulas, Needs, directives, visited
from study import load

from knnlm.settings import OTHER_KEYTYPES, Factory, IndexSettings

RULE = re.compile(r"(?m)^ *(?:use )?rule (?:\w+ as )?(\w*)(?: with)?:|^ *rule:")
W = {"seed": "1", "keytype": "ffn_input_ln", "index": "ivfpq", "shards": "8", "shard": "0", "first": "8"}
WIKITEXT = W | {"model": "wikitext", "corpus": "wikitext", "datastore": "wikitext", "vocab": "words", "split": "dev"}


@pytest.fixture
def formulas(monkeypatch):
    def of(name):
        monkeypatch.chdir(ROOT)
        study = load(yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
        return Formulas(study)

    return of


def rules():
    """(name, body) of each rule; a rule made in a loop has no name here."""
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        text = path.read_text()
        starts = [*RULE.finditer(text)]
        for match, end in zip(starts, [*(after.start() for after in starts[1:]), len(text)], strict=False):
            yield match[1], text[match.end() : end]


@pytest.mark.parametrize(("types", "together"), [(0.5, 1), (1.01, 1), (2.9, 2), (3.01, 3)])
def test_a_pass_extracts_as_many_key_types_as_fit(formulas, types, together):
    found = formulas("mini")
    one = 2e-9 * found.entries("wikitext", "wikitext", 1) * 128  # GB of a key type, in half precision
    found.study |= {"keep": "needed", "keytypes_gb": types * one}
    assert found.keytypes_together() == together
    found.study["keep"] = "all"
    assert found.keytypes_together() == len(OTHER_KEYTYPES)


@pytest.mark.parametrize("config", ["paper", "smoke"])
@pytest.mark.parametrize("keep", ["all", "needed"])
def test_every_rule_that_a_cluster_runs_has_a_formula(config, keep):
    """Those of no planned job too: the profile's `gpu_model` would reach a rule without a formula."""
    settings = ConfigSettings(config={"keep": keep}, configfiles=[ROOT / f"config/{config}.yaml"])
    with patch.dict(os.environ), SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        read = api.workflow(ResourceSettings(), settings, snakefile=ROOT / "Snakefile", workdir=ROOT)._workflow
        here = {rule.name for rule in read.rules if rule.norun or rule.name in read._localrules}
        asked = {rule.name: rule.resources for rule in read.rules if rule.name not in here}
    assert {"all", "fetch", "table", "table1", "draw_figure4", "verify"} <= here
    kept = {"all": {"extract_keytypes_0"}, "needed": {"extract_seed", "extract_keytypes_0", "train_index_passing"}}
    assert kept[keep] | {"train", "import_fairseq", "search_quantized", "score_ngram"} <= set(asked)
    for rule, resources in asked.items():
        for name in ("_cores", *directives(None, "train", {}, Machines())):
            assert name in resources and resources[name].is_evaluable(), (rule, name)


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


@pytest.mark.parametrize(
    ("words", "factory"),
    [(100_000, "Flat"), (170_000, "Flat"), (180_000, "IVF512,PQ64x4fsr"), (10_000_000, "IVF4096,PQ64x4fsr")],
)
def test_an_automatic_index_is_planned_by_the_size_of_the_texts(formulas, tmp_path, words, factory):
    (tmp_path / "a.txt").touch()
    os.truncate(tmp_path / "a.txt", 6 * words)  # bytes
    found = formulas("your-corpus")
    found.study["corpora"]["mine"]["sources"][0]["path"] = str(tmp_path)
    found.study["indexes"]["named"] = found.study["indexes"]["auto"] | {"factory": factory}
    of_mine = dict.fromkeys(("model", "corpus", "datastore"), "mine") | {"shards": "1"}
    for rule in ("train_index", "add", "search", "shrink", "compare_texts"):
        planned = []
        for name in ("auto", "named"):
            found.study["retrieval"]["index"] = name
            planned.append(getattr(found, rule)(W | of_mine | {"index": name}))
        assert planned[0] == planned[1], rule


@pytest.mark.parametrize(
    ("factory", "nprobe", "share"),
    [("IVF4096,PQ64x8", 32, 1 / 128), ("IVF512,SQ8", 8, 1 / 64), ("Flat", 32, 1), ("IVF4,SQ8", 32, 1)],
)
def test_a_search_reads_the_lists_that_it_visits(formulas, factory, nprobe, share):
    assert visited(IndexSettings.model_construct(factory=factory, nprobe=nprobe)) == share
    found = formulas("paper")
    hours = []
    for lists in (nprobe, 2 * nprobe):
        found.study["indexes"]["ivfpq"] |= {"factory": factory, "nprobe": lists}
        hours.append(found.search(WIKITEXT).hours)
    assert (hours[0] < hours[1]) == (share < 1)


def test_a_retry_asks_for_more(formulas):
    given = directives(formulas("smoke"), "search", {}, Machines())
    assert given["mem_mb"](WIKITEXT, 3) == 3 * given["mem_mb"](WIKITEXT, 1)
    assert given["runtime"](WIKITEXT, 3, "search") == 3 * given["runtime"](WIKITEXT, 1, "search")


def test_bytes_of_an_index_entry():
    assert Factory.parse("IVF4096,PQ64x8").entry_bytes(1024) == 72
    assert Factory.parse("IVF1024,PQ64x4fs").entry_bytes(128) == 40
    assert Factory.parse("Flat").entry_bytes(128) == 520


def test_the_slurm_profile_groups_rules_that_exist_and_asks_for_no_job_array():
    profile = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
    groups = dict(line.split("=") for line in profile["groups"])
    names = {name for name, _ in rules() if name}
    assert set(groups) <= names
    for name in groups:  # what replaces a rule for part of its jobs is grouped as the rule is
        assert all(groups.get(other) == groups[name] for other in names if other.startswith(f"{name}_")), name
    assert "set-resources" not in profile  # no list of rules: partition and GPU type follow from what a job asks for
    assert not any("array" in key for key in profile)
    assert profile["slurm-requeue"] is True and profile["configfile"] == "config/paper.yaml"


def asked(*arguments):
    """{rule: the resources of each of its jobs} of the paper study, by a dry run with the SLURM profile."""
    profile = () if "--profile" in arguments else ("--profile", "slurm")
    run = snakemake("-n", "--nolock", "--forceall", *profile, *arguments)
    assert run.returncode == 0, run.stderr[-2000:]
    found, rule = {}, ""
    for line in (run.stdout + run.stderr).splitlines():
        if match := re.match(r" *(?:localrule|rule) (\w+):", line):
            rule = match[1]
        elif match := re.match(r" *resources: (.*)", line):
            pairs = (pair.split("=", 1) for pair in match[1].split(", "))
            found.setdefault(rule, []).append({key: int(value) if value.isdigit() else value for key, value in pairs})
    return found


def test_a_cluster_jobs_threads_are_its_formulas_not_this_machines():
    cores = len(os.sched_getaffinity(0))
    run = snakemake("-n", "--nolock", "--forceall", "--profile", "slurm")
    assert run.returncode == 0, run.stderr[-2000:]
    train = re.findall(r"^rule train:\n(?:    .*\n)*?    threads: (\d+)", run.stdout + run.stderr, re.MULTILINE)
    assert {int(threads) for threads in train} == {32}
    on_this = snakemake("-n", "--nolock", "--forceall", "--configfile", "config/paper.yaml")
    threads = re.findall(r"^    threads: (\d+)", on_this.stdout + on_this.stderr, re.MULTILINE)
    assert max(map(int, threads)) <= cores


def submitted(resources):
    """(partition, `--gpus=…` or nothing) of a job, as the plugin submits it."""
    job = SimpleNamespace(name="job", threads=1, resources=AttributeDict(resources))
    partitions = read_partition_file(ROOT / "slurm/partitions.yaml")
    return get_best_partition(partitions, job, logging.getLogger()), set_gres_string(job).strip()


class AttributeDict(dict):
    __getattr__ = dict.get


def test_partition_and_gpu_type_follow_from_the_number_of_gpus():
    jobs = asked()
    on_gpus = {rule for rule, found in jobs.items() if any(one.get("gpu") for one in found)}
    assert on_gpus == {
        *("train", "evaluate", "evaluate_dev", "evaluate_keytypes", "extract", "extract_seed"),
        *(f"extract_keytypes_{number}" for number in range(len(OTHER_KEYTYPES))),  # each is large: one after another
        *("sample_keys", "stream_wiki", "stream_books"),
    }
    for found in jobs.values():
        for one in found:
            gpus = one.get("gpu", 0)
            expected = ("gpu", f"--gpus=a100:{gpus}") if gpus else ("cpu", "")
            if "gpu" in one:  # others run where snakemake runs
                assert submitted(one) == expected


def wishes():
    """What the profile's README proposes for config.yaml, each a mapping."""
    table = (ROOT / "slurm/README.md").read_text().split("| need | line |")[1].split("\n\n")[0]
    lines = [re.findall(r"`([a-z-]+: [^`]+)`", row) for row in table.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("lines", wishes(), ids=lambda lines: lines[0])
def test_groups_agree_whatever_the_profiles_readme_proposes(lines, tmp_path):
    profile = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
    for name, value in (pair for line in lines for pair in yaml.safe_load(line).items()):
        profile[name] = profile.get(name, {}) | value if isinstance(value, dict) else value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(profile))
    (tmp_path / "partitions.yaml").write_text((ROOT / "slurm/partitions.yaml").read_text())
    jobs = asked("--profile", tmp_path)
    for rule, wanted in profile.get("set-resources", {}).items():
        for one in jobs.get(rule, []):
            assert one.items() >= wanted.items()
            gpus, model = one["gpu"], wanted.get("gpu_model", "a100")
            partition = wanted.get("slurm_partition", "gpu" if gpus else "cpu")
            assert (one.get("slurm_partition") or submitted(one)[0]) == partition
            assert submitted(one)[1] == (f"--gpus={model}:{gpus}" if gpus else "")


def test_no_job_asks_for_more_time_than_the_profile_allows():
    profile = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
    longest, groups = profile["default-resources"]["max_runtime"], dict(g.split("=") for g in profile["groups"])
    assert longest == 1440
    sharing = {"shard": 2, "scores": 3, None: 1}  # add and search; merge, rerank and score
    for rule, found in asked().items():
        assert all(one.get("runtime", 0) <= longest // sharing[groups.get(rule)] for one in found)


def test_a_retry_is_held_to_the_longest_time_and_to_four_times_the_memory(formulas):
    workflow = SimpleNamespace(
        resource_settings=SimpleNamespace(
            default_resources={"max_runtime": SimpleNamespace(raw=100)}, overwrite_resources={}
        ),
        group_settings=SimpleNamespace(overwrite_groups=dict.fromkeys(("add", "add_passing", "search"), "shard")),
    )
    given = directives(formulas("paper"), "train", {}, Machines(workflow))
    assert given["runtime"](WIKITEXT, 1, "train") == given["runtime"](WIKITEXT, 9, "train") == 100
    assert given["runtime"](WIKITEXT, 9, "search") == 50  # rules of a group run one after another
    assert given["mem_mb"](WIKITEXT, 9) == 4 * given["mem_mb"](WIKITEXT, 1)


def test_every_rate_can_be_replaced(formulas, monkeypatch, tmp_path):
    before = formulas("paper").extract(WIKITEXT).hours
    (tmp_path / "rates.json").write_text(json.dumps({"gpu": {"forward": {"bfloat16": 2 * 94e12}}}))
    monkeypatch.setenv("KNNLM_RATES", str(tmp_path / "rates.json"))
    assert formulas("paper").extract(WIKITEXT).hours == pytest.approx(before / 2)
    for text, message in (
        ('{"gpu": {"forwrd": {}}}', "rates.json.gpu.forwrd: unknown rate; did you mean 'forward'?"),
        ('{"gpu": 3}', "rates.json.gpu: found 3, expected a mapping of train, forward, index"),
        ('{"disk": {"read": "fast"}}', "rates.json.disk.read: found 'fast', expected a number above 0"),
    ):
        (tmp_path / "rates.json").write_text(text)
        with pytest.raises(StudyError, match=re.escape(message)):
            rates.load()


def test_every_rate_is_explained_and_used():
    text = (ROOT / "workflow/rates.yaml").read_text()
    said, disk = text.split("disk:")
    for line in re.findall(r"(?m)^ *\w+: \d.*", f"{said}{disk.split('write')[1]}"):
        assert "assumed" in line or "measured" in line, line
    assert "all assumed" in disk
    formulas = (ROOT / "workflow/resources.py").read_text()
    for section, found in rates.load().items():
        assert f'rates["{section}"]' in formulas, section
        for name in found if section == "core" else ():
            assert f'"{name}"' in formulas, name


@pytest.mark.parametrize(
    ("needs", "minutes"),
    [
        (Needs(hours=0.2), 20 + 2 * 12),  # one core
        (Needs(hours=3), 20 + 2 * 15),  # twelve cores, a quarter of an hour each
        (Needs(hours=3, serial=True), 20 + 2 * 180),
        (Needs(hours=3, gpus=2), 20 + 2 * 90),
        (Needs(hours=3, gpus=2, waits=0.5), 20 + 2 * 120),
        (Needs(hours=40), 20 + 2 * 150),  # sixteen cores
    ],
)
def test_a_jobs_limit_is_twice_its_estimate_and_a_little(needs, minutes):
    assert needs.minutes == minutes == 20 + 2 * round(needs.estimate)
