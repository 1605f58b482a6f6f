"""docs/your-corpus.md: a folder of plain files to Table 1's rows with the configuration that the document names."""

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT, snakemake

sys.path.insert(0, str(ROOT / "tests/faults"))
import tinyrun

WORDS = ["the", "old", "young", "fox", "dog", "mill", "river", "runs", "sleeps", "over", "near", "and", "was", "very"]


def test_a_folder_of_plain_files_becomes_table_1(tmp_path):
    generator = np.random.default_rng(0)
    texts = tmp_path / "my-texts"
    texts.mkdir()
    for number in range(30):
        lines = [f"Story {number}", *(" ".join(generator.choice(WORDS, 30)) + "." for _ in range(4))]
        (texts / f"story{number}.txt").write_text("\n".join(lines) + "\n")
    config = yaml.safe_load((ROOT / "config/your-corpus.yaml").read_text()) | {"results": str(tmp_path / "results")}
    config["corpora"]["mine"] |= {"dev_words": 400, "test_words": 400}
    config["corpora"]["mine"]["sources"][0]["path"] = str(texts)
    config["models"]["mine"]["architecture"] |= {"layers": 2, "dim": 16, "ffn_dim": 32, "heads": 2}
    config["models"]["mine"]["training"] |= {"updates": 20, "evaluate_every": 10, "warmup": 5}
    config["mixture"] = {"resamples": 10}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    run = snakemake("--cores", 2, "--nolock", "table1", "--configfile", path)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = json.loads((tmp_path / "results/mine/experiments/table1.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["base", "knn", "cache", "knn-cache"]
    base, knn = (row["dev"]["perplexity"] for row in rows[:2])
    assert knn <= base
    table = (tmp_path / "results/mine/tables/table1.md").read_text()
    assert table.startswith("# My texts\n") and not [
        word for word in ("quoted", "Findings", "per word") if word in table
    ]
    everything = snakemake("-n", "--nolock", "--configfile", path)
    assert everything.returncode == 0, everything.stderr[-3000:]
    planned = set(re.findall(r"(?m)^(?:local)?rule (\w+):", everything.stdout))
    assert {"report", "cost", "explore"} <= planned and "claims_table" not in planned
    assert "differences.md" not in everything.stdout


@pytest.mark.parametrize("source", ["texts", "words"])
def test_a_change_of_ones_own_texts_or_words_is_noticed_and_a_copy_of_them_is_not(tmp_path, source):
    folder = tinyrun.workspace(tmp_path)
    words = folder / "words.txt"
    words.write_text("\n".join(f"{word} 1" for word in tinyrun.WORDS) + "\n")
    config = tinyrun.configured(folder, vocabs={"words": {"type": "word", "corpora": ["mine"], "file": "words.txt"}})
    target = "results/mine/vocabs/words/meta.json"
    tinyrun.run(folder, config, target=target)

    def planned() -> int:
        return tinyrun.planned(tinyrun.run(folder, config, "--dry-run", target=target))

    assert planned() == 0
    for path in (*folder.glob("my-texts/*"), words):  # as after a copy to another machine
        os.utime(path, (2e9, 2e9))
    assert planned() == 0
    kept = shutil.move(folder / "my-texts", folder / "elsewhere")
    assert planned() == 0  # texts that are gone are not asked for again
    shutil.move(kept, folder / "my-texts")
    changed = folder / "my-texts/story3.txt" if source == "texts" else words
    changed.write_text(changed.read_text().replace("fox", "cat"))
    assert planned() == (2 if source == "texts" else 1)
    if source == "texts":
        tinyrun.run(folder, config, target=target)
        assert planned() == 0
        (folder / "my-texts/story5.txt").unlink()
        assert planned() == 2


def test_one_output_may_show_a_corpus_as_tokens_of_two_vocabularies(tmp_path):
    """Its perplexities are then of words too."""
    folder = tinyrun.workspace(tmp_path)
    config = tinyrun.configured(folder)
    study = yaml.safe_load(config.read_text())
    study["vocabs"]["frequent"] = {"type": "word", "corpora": ["mine"], "min_count": 40}
    study["models"]["frequent"] = study["models"]["mine"] | {"vocab": "frequent"}
    rows = [{"name": name, "label": name, "model": name, "corpus": "mine"} for name in ("mine", "frequent")]
    (folder / "sheet.yaml").write_text(yaml.safe_dump({"table2": rows}))
    config.write_text(yaml.safe_dump(study | {"experiments": "sheet.yaml"}))
    tinyrun.run(folder, config, target="results/mine/tables/table2.md")
    table = (folder / "results/mine/tables/table2.md").read_text()
    assert "per word" in table and "bits per byte" in table.lower(), table
