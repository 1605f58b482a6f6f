import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from knnlm.artifacts import description
from knnlm.artifacts.files import UserError
from knnlm.outputs import costs, markdown, pages, tabulate
from knnlm.scores import experiments

PAPER = Path(__file__).parents[2] / "config/paper_numbers.yaml"
TABLES = ("table1", "table2", "table3", "table4", "table5", "precision", "metric", "temperature", "memorizing")


def tabulated(folder: Path, table: str, **more: object) -> Path:
    paths = {name: tuple(found) for name, found in synthetic.write(folder / "study").items()}
    config = tabulate.TabulateConfig(
        table=table, out=folder / "tables", note="Mini study.", **{"paper": PAPER, **paths, **more}
    )
    tabulate.main(config)
    return folder / "tables"


@pytest.mark.parametrize("table", [*TABLES, "claims"])
def test_every_table_is_written_in_three_formats(tmp_path: Path, table: str):
    out = tabulated(tmp_path, table)
    assert sorted(path.name for path in out.iterdir()) == [f"{table}.csv", f"{table}.md", f"{table}.tex"]
    assert "Mini study." in (out / f"{table}.md").read_text()
    assert r"\toprule" in (out / f"{table}.tex").read_text()
    assert not set("λ–−→²") & set((out / f"{table}.tex").read_text())


def test_table1_shows_the_papers_number_beside_ours_and_quotes_other_work(tmp_path: Path):
    out = tabulated(tmp_path, "table1")
    lines = (out / "table1.md").read_text().splitlines()
    cells = [cell.strip() for cell in next(line for line in lines if "+ kNN-LM " in line).strip("|").split("|")]
    assert cells == ["+ kNN-LM", "3.46M", "0.25", "90.00 [87.30, 92.70]", "16.06", "91.80 [89.05, 94.55]", "16.12"]
    assert any("Transformer-XL (Dai et al. 2019), quoted" in line and "18.30" in line for line in lines)
    assert any(line.startswith("- **held** – kNN-LM with the LM's own") for line in lines)
    numbers = pd.read_csv(out / "table1.csv", index_col="name")
    assert numbers.loc["knn-cache", ["dev", "paper_dev"]].tolist() == [88.5, 15.81]


@pytest.mark.parametrize(("title", "heading"), [("My texts", "# My texts"), ("", "# table1")])
def test_without_the_papers_numbers_a_table_has_only_our_rows_and_no_findings(tmp_path: Path, title: str, heading: str):
    beside = tabulated(tmp_path / "beside", "table1")
    out = tabulated(tmp_path / "own", "table1", paper=None, title=title)
    lines = (out / "table1.md").read_text().splitlines()
    assert lines[0] == heading
    for end in ("md", "tex", "csv"):
        text = (out / f"table1.{end}").read_text().lower()
        assert [word for word in ("paper", "quoted", "wikitext-103", "finding", "§") if word in text] == []
    theirs, ours = (pd.read_csv(folder / "table1.csv", index_col="name") for folder in (beside, out))
    names = [name for name in theirs.index if not str(theirs.loc[name, "label"]).endswith(", quoted")]
    pd.testing.assert_frame_equal(ours, theirs.loc[names].drop(columns=["paper_dev", "paper_test"]))
    cost = tabulated(tmp_path / "cost", "cost", paper=None) / "cost.md"
    assert cost.read_text().startswith("# Computational cost\n") and "Paper" not in cost.read_text()


def test_claims_need_the_paper(tmp_path: Path):
    with pytest.raises(UserError, match="found no claims in --paper"):
        tabulated(tmp_path, "claims", paper=None)


def test_below_table1_stands_what_each_component_adds_to_the_others(tmp_path: Path):
    out = tabulated(tmp_path, "table1")
    rest = {"kNN to cache and n-gram LM": 96, "cache to kNN and n-gram LM": 88, "n-gram LM to kNN and cache": 88.5}
    drawn = np.random.default_rng(5).integers(10, 40, (20000, 30)).sum(1) / 735  # documents have 10, 11, … 39 parts
    for text in ((out / "table1.md").read_text(), (out / "table1.tex").read_text()):
        (line,) = re.findall(r"\+ all: on test, (.*)", text)
        found = dict(re.match(r"(.*) (\S+ \[.*, .*\])$", part).groups() for part in line.split("; "))
        assert list(found) == list(rest)
        for name, before in rest.items():
            gain = math.log(before / 87)  # the same for each token
            value, low, high = (float(number.strip("[,]")) for number in found[name].split())
            assert value == round(gain, 3)
            assert [low, high] == pytest.approx(gain * np.quantile(drawn, [0.025, 0.975]), abs=0.02 * gain + 0.0005)


STORES = {  # settings of the datastore of a row with kNN and an n-gram model, and of a row with kNN alone
    "another index": ({"index": "flat"}, {}, False),
    "another temperature": ({"temperature": 3.0}, {}, False),
    "another temperature, tuned": ({"temperature": [3], "temperatures": [1, 3]}, {"temperatures": [1, 3]}, True),
    "the same": ({}, {}, True),
}


@pytest.mark.parametrize(("fuller", "rest", "compared"), STORES.values(), ids=STORES)
@pytest.mark.parametrize(("facts", "alike"), [({}, True), ({"seeds": [1, 2]}, False), ({"model": "wiki"}, False)])
def test_components_add_to_rows_that_are_otherwise_the_same(fuller, rest, compared, facts, alike):
    rows = [
        synthetic.row("both", 80, datastore=synthetic.store(**fuller), ngram=3, label="LM, both"),
        synthetic.row("knn", 90, datastore=synthetic.store(**rest), **facts),
        synthetic.row("ngram", 85, ngram=4),
    ]
    study = experiments.Study({"table2": {"experiment": "table2", "rows": rows}}, {})
    found = tabulate.extras(study, "table2")
    assert list(found) == (["LM, both"] if compared and alike else [])
    assert all(line.startswith(f"on test, n-gram LM to kNN {math.log(90 / 80):+.3f} [") for line in found.values())


def test_a_file_is_there_until_what_is_made_from_it_is():
    files = [costs.File(10, made=0, gone=5), costs.File(7, made=5, gone=math.inf), costs.File(4, made=6, gone=9)]
    assert costs.volume(files) == {"written": 21, "peak_bytes": 17, "bytes": 7}
    assert costs.volume([]) == {"written": 0, "peak_bytes": 0, "bytes": 0}


@pytest.mark.parametrize("times", [(9, 5), (5, 9)])
def test_a_file_was_last_used_by_the_last_that_was_made_from_it(tmp_path: Path, times: tuple[int, int]):
    for name, time in zip("ab", times, strict=True):
        (tmp_path / name).mkdir()
        meta = tmp_path / name / "meta.json"
        meta.write_text(json.dumps({"inputs": {"keys": {"path": "../keys"}}, "outputs": {}}))
        os.utime(meta, (time, time))
    assert costs.last_uses([tmp_path / "a", tmp_path / "b"]) == {tmp_path / "keys": 9}


def test_only_the_rows_that_mix_the_most_say_what_components_add():
    """Table 1 has rows of two components, and rows of one that these could be compared with."""
    rows = synthetic.experiments()["table1"]
    study = experiments.Study({"table1": {"experiment": "table1", "rows": rows}}, {})
    assert list(tabulate.extras(study, "table1")) == ["+ all"]


def test_nothing_is_added_where_no_row_mixes_several_or_documents_are_few():
    rows = synthetic.experiments()["table2"]
    assert tabulate.extras(experiments.Study({"table2": {"experiment": "table2", "rows": rows}}, {}), "table2") == {}
    rows = synthetic.experiments()["table1"]
    for row in rows:
        row["test"]["nats"] = row["test"]["nats"][:9]
    assert tabulate.extras(experiments.Study({"table1": {"experiment": "table1", "rows": rows}}, {}), "table1") == {}


@pytest.mark.parametrize("seeds", [[90.0, 93.25, 89.5], [88.0, 92.0]])
def test_several_seeds_show_the_lowest_and_the_highest_beside_their_median(tmp_path: Path, seeds: list[float]):
    paths = {name: tuple(found) for name, found in synthetic.write(tmp_path / "study").items()}
    (path,) = (path for path in paths["experiments"] if path.stem == "table1")
    before = pd.read_csv(tabulated(tmp_path / "before", "table1") / "table1.csv", index_col="name")
    experiment = json.loads(path.read_text())
    (row,) = (row for row in experiment["rows"] if row["name"] == "knn")
    row["seeds"] = list(range(len(seeds)))
    for split, factor in (("dev", 1), ("test", 2)):
        row[split] |= {"per_seed": [factor * value for value in seeds]}
    path.write_text(json.dumps(experiment))
    tabulate.main(tabulate.TabulateConfig(table="table1", paper=PAPER, out=tmp_path / "tables", note="Any.", **paths))
    numbers = pd.read_csv(tmp_path / "tables/table1.csv", index_col="name")
    spread = [f"{split}_{end}" for split in ("dev", "test") for end in ("min", "max")]
    assert set(numbers) - set(before) == set(spread) and numbers[list(before)].equals(before)
    ordered = sorted(seeds)
    assert numbers.loc["knn", spread].tolist() == [ordered[0], ordered[-1], 2 * ordered[0], 2 * ordered[-1]]
    assert numbers.drop("knn")[spread].isna().all(axis=None)
    for end, dash in (("md", "–"), ("tex", "--")):
        text = (tmp_path / f"tables/table1.{end}").read_text().replace("~", " ")  # no line ends in an interval
        assert f" 90.00 ({ordered[0]:.2f}{dash}{ordered[-1]:.2f}) [87.30, 92.70] " in text
        assert f" 91.80 ({2 * ordered[0]:.2f}{dash}{2 * ordered[-1]:.2f}) [89.05, 94.55] " in text
        assert " 100.00 [97.00, 103.00] " in text and tabulate.SEEDS_LEGEND in text
    assert tabulate.SEEDS_LEGEND not in (tabulated(tmp_path / "one", "table2") / "table2.md").read_text()


@pytest.mark.parametrize(("tuned", "shown"), [([10], "T = 10"), ([30, 2.5, 30], "T = 30")])
def test_a_tuned_temperature_stands_beside_its_weight(tuned: list[float], shown: str):
    paper = experiments.paper_numbers(PAPER)
    found = synthetic.experiments()
    for output, name in (("table1", "knn"), ("temperature", "t4")):
        rows = found[output]
        row = next(row for row in rows if row["name"] == name)
        row["datastore"]["temperature"] = tuned
        numbers, table = tabulate.perplexities(output, rows, paper[output]["rows"])
        place = list(numbers["name"]).index(name)
        assert numbers["lmbda"][place] == table["λ"][place] == f"0.25, {shown}"
    assert numbers["temperature"].iloc[place] == float(shown.removeprefix("T = "))


@pytest.mark.parametrize("table", ["table1", "table5"])
def test_where_tokenizers_differ_tables_show_perplexity_per_word_and_bits_per_byte(tmp_path: Path, table: str):
    paths = {name: tuple(found) for name, found in synthetic.write(tmp_path / "study").items()}
    (path,) = (path for path in paths["experiments"] if path.stem == table)
    experiment = json.loads(path.read_text())
    for row in experiment["rows"]:
        row["vocab"] = "pieces"
        for split in ("dev", "test"):  # 20,000 tokens
            row[split] |= {"words": 16000, "bytes": 80000}
    path.write_text(json.dumps(experiment))
    before = pd.read_csv(tabulated(tmp_path / "before", table) / f"{table}.csv")
    tabulate.main(tabulate.TabulateConfig(table=table, paper=PAPER, out=tmp_path / "tables", note="Any.", **paths))
    numbers = pd.read_csv(tmp_path / f"tables/{table}.csv")
    assert set(before) < set(numbers) and numbers[list(before)].equals(before)
    for split in ("dev", "test")[: 2 if table == "table1" else 1]:
        for end in ("", "_low", "_high"):
            tokens = numbers[f"{split}{end}"]
            assert numbers[f"{split}_per_word{end}"].to_numpy() == pytest.approx(tokens**1.25, rel=1e-4, nan_ok=True)
            bits = np.log2(tokens) / 4
            assert numbers[f"{split}_bits_per_byte{end}"].to_numpy() == pytest.approx(bits, rel=1e-4, nan_ok=True)
    page, tex = ((tmp_path / f"tables/{table}.{end}").read_text() for end in ("md", "tex"))
    for text in (page, tex):
        assert "Tokenizers differ: compare models per word" in text
        assert "Dev, per token" in text and "Dev, per word" in text and "Dev, bits per byte" in text
    assert "100.00 [97.00, 103.00] " in page  # the base LM's, then 100^1.25 and log2(100) / 4
    assert " 316.23 [304.41, 328.13] " in page and " 1.661 [1.650, 1.672] " in page


def test_a_missing_perplexity_is_a_dash(tmp_path: Path):
    row = synthetic.row("base", 100, test=None)
    _, shown = tabulate.perplexities("table2", [row], {})
    assert shown["Test"].tolist() == ["–"]


def test_cost_sums_seconds_and_bytes_by_stage(tmp_path: Path):
    for name, seconds in (("train/a", 10.0), ("train/b", 2.5), ("extract/c", 4.0)):
        path = tmp_path / f"benchmarks/{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"s": seconds, "h:m:s": "0:00:01", "max_rss": "NA"}) + "\n")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/keys.npy").write_bytes(b"0" * 1000)
    benchmarks = tuple(sorted(tmp_path.glob("benchmarks/*/*")))
    out = tabulated(tmp_path, "cost", benchmarks=benchmarks, artifacts=(tmp_path / "keys",))
    numbers = pd.read_csv(out / "cost.csv", index_col="stage")
    assert numbers.index.tolist() == ["train", "extract", "all"]
    assert numbers.loc["train", ["jobs", "seconds", "longest"]].tolist() == [2, 12.5, 10.0]
    assert numbers.loc["extract", ["seconds", "written", "peak_bytes", "bytes"]].tolist() == [4.0, 1000, 1000, 1000]
    assert numbers.loc["all", "seconds"] == 16.5


@pytest.mark.parametrize("left", [b"", bytes(30), b'{"s": 7, "max'])
def test_cost_leaves_out_a_job_whose_benchmark_was_lost_with_the_power(tmp_path: Path, left: bytes, caplog):
    (tmp_path / "benchmarks/train").mkdir(parents=True)
    (tmp_path / "benchmarks/train/a.jsonl").write_text(json.dumps({"s": 2.5, "max_rss": 1}) + "\n")
    (tmp_path / "benchmarks/train/b.jsonl").write_bytes(left)
    out = tabulated(tmp_path, "cost", benchmarks=(tmp_path / "benchmarks",), artifacts=())
    assert pd.read_csv(out / "cost.csv", index_col="stage").loc["train", ["jobs", "seconds"]].tolist() == [1, 2.5]
    assert "b.jsonl: empty or cut short" in caplog.text


@pytest.mark.parametrize(("order", "peak"), [("one after another", 700 + 300), ("both at once", 2 * 700 + 300)])
def test_cost_counts_deleted_files_and_the_most_that_lay_there_at_once(tmp_path: Path, order: str, peak: int):
    """Two sets of keys of 700 bytes each, deleted once an index of 300 bytes was made from it; one index is deleted."""
    times = {"keys/a": 10, "indexes/a": 20, "keys/b": 30 if order == "one after another" else 15, "indexes/b": 40}
    metas = 0
    for name, time in times.items():
        folder, source = tmp_path / name, name.replace("indexes", "keys")
        folder.mkdir(parents=True)
        data = folder / "data.bin"
        data.write_bytes(b"0" * (700 if name.startswith("keys") else 300))
        inputs = {"keys": tmp_path / source} if source != name else {}
        description.write_meta(folder, "any", {}, inputs)
        if name != "indexes/b":
            data.unlink()
        meta = folder / "meta.json"
        os.utime(meta, (time, time))
        metas += meta.stat().st_size
    benchmark = tmp_path / "benchmarks/extract/a.jsonl"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text(json.dumps({"s": 1, "max_rss": 1}) + "\n")
    os.utime(tmp_path / "indexes/b/data.bin", (40, 40))
    artifacts = (tmp_path / "keys", tmp_path / "indexes")
    out = tabulated(tmp_path, "cost", benchmarks=(benchmark,), artifacts=artifacts)
    found = pd.read_csv(out / "cost.csv", index_col="stage").loc["all"]
    assert found["written"] == pytest.approx(2 * 700 + 2 * 300 + metas, rel=1e-5)
    assert found["bytes"] == pytest.approx(300 + metas, rel=1e-5)
    assert peak <= found["peak_bytes"] <= peak + metas


def test_a_table_without_its_experiment_is_one_clear_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"give table9\.json"):
        tabulated(tmp_path, "table9")


def test_what_is_said_of_pretrained_models_is_said_once():
    row = {"model": "pythia", "description": "Pythia, 70M", "licence": "Apache-2.0", "notes": "two are the same"}
    rows = [row, {"model": "own"}, row | {"name": "knn"}, {"model": "bare", "licence": "MIT"}]
    said = "pythia: Pythia, 70M; two are the same (Apache-2.0)."
    assert pages.about_models("", rows) == said and pages.about_models("Small.", rows) == f"Small. {said}"
    assert pages.about_models("Small.", rows[1:2]) == "Small."


@pytest.mark.parametrize("weights", [[0.1, 0.9, 0.3], [0.9, 0.3, 0.1], [0.3, 0.1, 0.9]])
def test_the_weight_and_the_temperature_of_several_seeds_are_their_medians(weights: list[float]):
    paper = experiments.paper_numbers(PAPER)
    rows = synthetic.experiments()["table1"]
    both = next(row for row in rows if row["name"] == "knn-cache")
    both |= {"seeds": [1, 2, 3], "lmbda": {"knn": weights, "cache": [weight / 10 for weight in weights]}}
    both["datastore"]["temperature"] = [100 * weight for weight in weights]
    numbers, shown = tabulate.perplexities("table1", rows, paper["table1"]["rows"])
    place = list(numbers["name"]).index("knn-cache")
    assert shown["λ"][place] == numbers["lmbda"][place] == "knn 0.3, cache 0.03, T = 30"
    alone, _ = tabulate.perplexities("temperature", [both], {})
    assert alone["temperature"].tolist() == [30]


@pytest.mark.parametrize("output", ["table1", "table3"])
def test_each_column_has_the_numbers_of_its_split_and_row(output: str):
    rows = synthetic.experiments()[output]
    printed = experiments.paper_numbers(PAPER)[output]["rows"]
    for place, row in enumerate(rows):
        row |= {"dev": synthetic.split(50 + place), "test": synthetic.split(90 - place)}
    numbers, shown = tabulate.perplexities(output, rows, printed)
    for place, row in enumerate(rows):
        line = numbers[numbers["name"] == row["name"]].iloc[0]
        for split, value in (("dev", 50 + place), ("test", 90 - place)):
            assert [line[f"{split}{end}"] for end in ("", "_low", "_high")] == [value, value * 0.97, value * 1.03]
            expected = printed.get(row["name"], {}).get(split)
            assert line[f"paper_{split}"] == expected or (expected is None and pd.isna(line[f"paper_{split}"]))
            cell = shown[shown["Model"] == row["label"]].iloc[0][split.capitalize()]
            assert cell.startswith(f"{value:.2f} [")


def test_what_components_add_is_measured_on_test_where_test_is_shown():
    rows = [
        synthetic.row("both", 80, datastore=synthetic.store(), ngram=3, label="LM, both", test=synthetic.split(60)),
        synthetic.row("knn", 90, datastore=synthetic.store(), test=synthetic.split(99)),
    ]
    for output, split, gain in (("table1", "test", 99 / 60), ("table5", "dev", 90 / 80)):
        study = experiments.Study({output: {"experiment": output, "rows": rows}}, {})
        (line,) = tabulate.extras(study, output).values()
        assert line.startswith(f"on {split}, n-gram LM to kNN {math.log(gain):+.3f} [")


SHOWN = {
    "90319460.00 [66120125.41, 121990065.33]": "9.03×10⁷ [6.61×10⁷, 1.22×10⁸]",
    "90319460.00 → 130.45 (−90319329.55)": "9.03×10⁷ → 130.45 (−9.03×10⁷)",
    "99999.99": "99999.99",
    "100000.00": "1.00×10⁵",
    "999999.4": "1.00×10⁶",
    "99,999.9": "99,999.9",
    "100,000.0": "1.00×10⁵",
    "1,234,567.8": "1.23×10⁶",
    "wiki (3,302,338 tokens)": "wiki (3,302,338 tokens)",
    "v1.234567.8 and a1234567.8": "v1.234567.8 and a1234567.8",
    "12345678901234567890.5": "1.23×10¹⁹",
}


@pytest.mark.parametrize(("text", "expected"), SHOWN.items())
def test_measured_numbers_from_100000_on_are_in_scientific_notation_and_counts_are_not(text: str, expected: str):
    assert markdown.scientific(text) == expected


def test_markdown_and_latex_show_powers_of_ten_and_csv_every_digit(tmp_path: Path):
    paths = {name: tuple(found) for name, found in synthetic.write(tmp_path / "study").items()}
    (path,) = (path for path in paths["experiments"] if path.stem == "memorizing")
    experiment = json.loads(path.read_text())
    experiment["rows"][-1]["dev"] = synthetic.split(90319460.0)
    path.write_text(json.dumps(experiment))
    for table in ("memorizing", "claims"):
        tabulate.main(tabulate.TabulateConfig(table=table, paper=PAPER, out=tmp_path, **paths))
    assert " 9.03×10⁷ [8.76×10⁷, 9.30×10⁷] " in (tmp_path / "memorizing.md").read_text()
    assert (
        r" 9.03$\times$10$^{7}$ [8.76$\times$10$^{7}$,~9.30$\times$10$^{7}$] "
        in (tmp_path / "memorizing.tex").read_text()
    )
    numbers = pd.read_csv(tmp_path / "memorizing.csv", index_col="name")
    assert numbers.loc["memorizing-alone", "dev"] == pytest.approx(90319460, rel=1e-5)
    assert " 9.03×10⁷ → 100.00 (−9.03×10⁷) " in (tmp_path / "claims.md").read_text()
    assert "90319460.00 → 100.00 (−90319360.00)" in (tmp_path / "claims.csv").read_text()


FEW = {
    (1, 12): "1 document of dev is too few",
    (2, 1): "2 documents of dev and 1 document of test are too few",
    (9, 9): "9 documents of dev and 9 documents of test are too few",
    (10, 10): "",
}


@pytest.mark.parametrize(("documents", "said"), FEW.items())
def test_where_no_interval_can_be_drawn_the_note_says_why(tmp_path: Path, documents: tuple[int, int], said: str):
    paths = {name: tuple(found) for name, found in synthetic.write(tmp_path / "study").items()}
    (path,) = (path for path in paths["experiments"] if path.stem == "table2")
    experiment = json.loads(path.read_text())
    for row in experiment["rows"]:
        for split, count in zip(("dev", "test"), documents, strict=True):
            row[split] |= {"documents": count, "interval": None if count < 10 else row[split]["interval"]}
    path.write_text(json.dumps(experiment))
    tabulate.main(tabulate.TabulateConfig(table="table2", paper=PAPER, out=tmp_path, note="Any.", **paths))
    for end in ("md", "tex"):
        page = (tmp_path / f"table2.{end}").read_text()
        assert ("no interval can be drawn" in page) == bool(said) and said in page


@pytest.mark.parametrize("table", [*TABLES, "claims"])
def test_the_note_says_what_brackets_are(tmp_path: Path, table: str):
    page = (tabulated(tmp_path, table) / f"{table}.md").read_text()
    note = page.split("\n\n")[1]
    assert "[" in page and re.search(
        r"in brackets 95% bootstrap|95% bootstrap intervals over documents in brackets", note
    )


SEEDS = {
    "one": ({}, "Seed 1; index ivfpq. A table of several seeds shows medians and says so."),
    "several": (
        {"base": [3, 1, 8], "knn": [3, 1, 8]},
        "Medians over seeds 3, 1 and 8; index ivfpq. In parentheses the lowest and the highest of several seeds;",
    ),
    "both": (
        {"knn": [1, 2]},
        "Seed 1; medians over seeds 1 and 2: Any LM + kNN; index ivfpq. In parentheses the lowest and the highest",
    ),
}


@pytest.mark.parametrize(("seeds", "said"), SEEDS.values(), ids=SEEDS)
def test_the_note_says_of_which_seeds_and_index_the_numbers_are(tmp_path: Path, seeds: dict, said: str):
    paths = {name: tuple(found) for name, found in synthetic.write(tmp_path / "study").items()}
    (path,) = (path for path in paths["experiments"] if path.stem == "table2")
    experiment = json.loads(path.read_text())
    for row in experiment["rows"]:
        row |= {"label": {"knn": "Any LM + kNN"}.get(row["name"], row["name"])}
        row["seeds"] = seeds.get(row["name"], row["seeds"])
    path.write_text(json.dumps(experiment))
    for table in ("table2", "claims"):
        tabulate.main(tabulate.TabulateConfig(table=table, paper=PAPER, out=tmp_path, note="Any.", **paths))
    assert said in (tmp_path / "table2.md").read_text().split("\n\n")[1]
    note = (tmp_path / "claims.md").read_text().split("\n\n")[1]
    others = [path.stem for path in paths["experiments"] if path.stem != "table2"]
    for text in dict.fromkeys(experiments.seeds(row["seeds"]) for row in experiment["rows"]):
        where = [name for name in sorted([*others, "table2"]) if name == "table2" or text == "seed 1"]
        assert f"{text} in {', '.join(where)}" in note
    assert "seed 1 in" in note and note.count("table2") == len({tuple(row["seeds"]) for row in experiment["rows"]})


def test_of_a_pretrained_lm_no_seed_is_named(tmp_path: Path):
    paths = {name: tuple(found) for name, found in synthetic.write(tmp_path / "study").items()}
    (path,) = (path for path in paths["experiments"] if path.stem == "table2")
    experiment = json.loads(path.read_text())
    for row in experiment["rows"]:
        row |= {"description": "of others", "training_tokens": None}
    path.write_text(json.dumps(experiment))
    tabulate.main(tabulate.TabulateConfig(table="table2", paper=PAPER, out=tmp_path, note="Any.", **paths))
    note = (tmp_path / "table2.md").read_text().split("\n\n")[1]
    assert "Index ivfpq." in note and "seed" not in note.lower()
