"""docs/your-corpus.md: a folder of plain files to Table 1's rows with the configuration that the document names."""

import json
import re

import numpy as np
import yaml
from conftest import ROOT, snakemake

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
    assert table.startswith("# My texts\n") and "quoted" not in table and "Findings" not in table
    everything = snakemake("-n", "--nolock", "--configfile", path)
    assert everything.returncode == 0, everything.stderr[-3000:]
    planned = set(re.findall(r"(?m)^(?:local)?rule (\w+):", everything.stdout))
    assert {"report", "cost", "explore"} <= planned and "claims_table" not in planned
    assert "differences.md" not in everything.stdout
