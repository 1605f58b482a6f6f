"""The rehearsal of the paper's study: its jobs are the paper's, and its texts are read and fetched as real ones."""

import os
import re
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, snakemake
from rehearsal import division, server, texts

from knnlm.corpora import sources
from knnlm.corpora.sources import Document

PAPER = ROOT / "config/paper.yaml"
REVISION = "0" * 40
ARTICLES = [
    Document(f"Fox {i}", "test", f"Fox {i}\nThe fox ran, 1,000 times.\n" + "A well-known line. " * 50)
    for i in range(sum(texts.ARTICLES.values()))
]


def rehearsed(folder: Path, address: str = "http://127.0.0.1:9", digest: str = "0" * 64) -> Path:
    """The files of a study that is divided from the paper's."""
    words = {"wikitext103": 29000, "wikipedia": 55000}
    whole = yaml.safe_load((ROOT / "config/archives.yaml").read_text())
    whole["wikipedia"]["revision"] = REVISION
    (folder / "archives.yaml").write_text(yaml.safe_dump(division.catalogue(whole, address, digest, words)))
    study = division.rehearsed(yaml.safe_load(PAPER.read_text()), folder, folder / "results")
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


def planned(*arguments: object) -> tuple[dict[str, int], str]:
    """{rule: jobs} of a dry run, and its text."""
    run = snakemake("-n", "--nolock", "--forceall", *arguments)
    assert run.returncode == 0, run.stderr[-2000:]
    text = run.stdout + run.stderr
    return {rule: int(count) for rule, count in re.findall(r"(?m)^(\w+) +(\d+)$", text)}, text


def test_the_rehearsal_has_the_papers_jobs(tmp_path):
    paper, of_paper = planned("--configfile", PAPER)
    small, of_small = planned("--configfile", rehearsed(tmp_path))
    assert small == paper and paper["total"] > 500
    resource = re.compile(r"(?m)^ *resources: .*\bgpu=(\d+)")
    assert sorted(resource.findall(of_small)) == sorted(resource.findall(of_paper))


def test_every_number_of_the_papers_study_is_divided_or_stays_on_purpose():
    found = set(division.numbers(yaml.safe_load(PAPER.read_text())))
    assert found == (set(division.DIVISORS) | division.UNDIVIDED) & found
    assert not set(division.DIVISORS) & division.UNDIVIDED
    assert set(division.DIVISORS) <= found


def test_what_is_divided():
    study = {"windows": {"new": 512}, "warmup": 4, "adaptive_cutoffs": [20000, 60000], "k": 1024, "index": {}}
    study["index"]["factory"] = "IVF4096,PQ64x8"
    assert division.divided(study) == {
        **{"windows": {"new": 32}, "warmup": 1, "adaptive_cutoffs": [200, 600], "k": 1024},
        "index": {"factory": "IVF16,PQ8x8"},
    }


def test_wikitext_is_made_as_it_is_published(tmp_path):
    texts.make_wikitext(ARTICLES, tmp_path / "wikitext.zip")
    with zipfile.ZipFile(tmp_path / "wikitext.zip") as archive:
        assert archive.namelist() == [f"wikitext-103/wiki.{name}.tokens" for name in ("train", "valid", "test")]
        text = archive.read("wikitext-103/wiki.train.tokens").decode()
    assert text.startswith(" = Fox <unk> = \n \n The fox ran , 1 @,@ 000 times . \n \n A well @-@ known line .")
    read = list(sources.wikitext103(tmp_path / "wikitext.zip"))
    assert [document.split for document in read] == ["train"] * 75 + ["dev"] * 3 + ["test"] * 3


def test_wikipedia_and_books_are_read_as_they_were_made(tmp_path):
    texts.make_wikipedia(
        [Document("Fox", "test", "Fox\n" + "One fox. " * 60 + "\n" + "Two foxes. " * 9)], tmp_path / "hub"
    )
    (article,) = sources.huggingface_parquet(tmp_path / "hub")
    assert article.text == "Fox\n" + ("One fox. " * 60).strip() + "\n" + ("Two foxes. " * 9).strip()
    texts.make_books([Document("Foxes", "test", "One fox. " * 60 + "\nTwo foxes.")], tmp_path / "books")
    (book,) = sources.books_folder(tmp_path / "books")
    assert (book.title, book.text) == ("Foxes", ("One fox. " * 60).strip() + "\nTwo foxes.")


@pytest.mark.parametrize("name", ["wikitext103", "wikipedia"])
def test_a_rule_fetches_each_archive(tmp_path, monkeypatch, name):
    texts.make_wikitext(ARTICLES, tmp_path / texts.ZIP)
    texts.make_wikipedia(ARTICLES, tmp_path / texts.PARQUET)
    with server.serve(tmp_path / "served", REVISION) as address:
        study = rehearsed(tmp_path, address, server.digest(tmp_path / texts.ZIP))
        monkeypatch.setitem(os.environ, "HF_ENDPOINT", address)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # set where a pretrained model was loaded before
        archive = tmp_path / "downloads" / name
        run = snakemake(archive, "--cores", 1, "--nolock", "--configfile", study)
    assert run.returncode == 0, run.stderr[-2000:]
    assert archive.is_file() or len([*archive.rglob("*.parquet")]) == texts.PARQUET_FILES
