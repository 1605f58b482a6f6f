"""The rules themselves: each is described, logs its command and passes Snakemake's own lint; what a run prints."""

import re
import sys

import pytest
import yaml
from conftest import ROOT, snakemake
from test_resources import rules

sys.path.insert(0, str(ROOT / "workflow"))
from summary import summary

COMMAND = re.compile(r"(?:knnlm|workflow/launch)\b|command\(EXTRACT")


def test_every_rule_is_described_in_one_sentence():
    listed = snakemake("--list").stdout.splitlines()
    assert len(listed) > 30
    assert [line for line in listed if not re.fullmatch(r"\w+ \([A-Z].*\.\)", line)] == []


def test_every_rule_that_runs_a_command_logs_its_errors():
    for name, body in rules():
        if "shell:" in body:
            assert COMMAND.search(body) and body.count("2> {log:q}") == 1 and "log:\n" in body, name


def test_lint_finds_nothing():
    run = snakemake("--lint", "text", "--configfile", "config/paper.yaml")
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_failed_jobs_error_is_printed_and_kept_in_its_log(tmp_path):
    config = yaml.safe_load((ROOT / "config/your-corpus.yaml").read_text()) | {"results": str(tmp_path / "results")}
    config["corpora"]["mine"]["sources"][0]["path"] = str(tmp_path / "texts")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/one.docx").write_text("word " * 400)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    run = snakemake("table1", "--cores", 1, "--nolock", "--configfile", tmp_path / "study.yaml")
    assert run.returncode == 1
    (error,) = [line for line in run.stderr.splitlines() if line.startswith(f"error: {tmp_path}/texts: looked for ")]
    assert (tmp_path / "results/mine/logs/prepare/mine.log").read_text() == f"{error}\n"


@pytest.mark.parametrize("reference", [None, "tables/table1.txt", "tables/table1.csv"])
def test_a_study_without_a_reference_is_not_verified(configured, smoke_config, tmp_path, reference):
    path = configured(smoke_config | {"results": f"{tmp_path}/results"})
    if reference:
        file = tmp_path / "results/reference/smoke" / reference
        file.parent.mkdir(parents=True)
        file.touch()
    run = snakemake("verify", "-n", "--nolock", "--quiet", "--configfile", path)
    where = f"error: verify: {tmp_path}/results/reference/smoke has no tables/*.csv or figures/*.csv, so "
    errors = [line for line in run.stderr.splitlines() if "verify" in line]
    if reference and reference.endswith(".csv"):
        assert (run.returncode, errors) == (0, [])
    else:
        assert run.returncode == 1 and len(errors) == 1 and errors[0].startswith(where), run.stderr
        assert not (tmp_path / "results/smoke").exists()


def test_the_last_lines_name_what_is_there(tmp_path):
    assert summary(tmp_path) == f"Done. {tmp_path} holds the files that were asked for."
    for name in ("tables/table1.md", "tables/table2.md", "figures/figure4.png", "report.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    first, page, files = summary(tmp_path).splitlines()
    assert first == f"Done. {tmp_path} holds 2 tables, 1 figure, the report."
    assert f"open {tmp_path}/report.html in a browser" in page
    assert f"{tmp_path}/tables/*.md and {tmp_path}/figures/*.png" in files
