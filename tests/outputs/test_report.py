"""The report is one file with everything in it."""

import base64
import csv
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import pyplot as plt

from knnlm.artifacts import files
from knnlm.outputs import figures, prose, report

ROOT = Path(__file__).parents[2]
TABLE = """# WikiText-103 (paper: §4.1, Table 1)

A note.

| Model | Dev | Paper, dev |
|:------|----:|-----------:|
| LM <b> | 20.00 [19.00, 21.00] | 17.96 |

**Findings of the paper, here:**

- **did not hold** – kNN helps (§4.1).
"""
CLAIMS = "# Claims\n\nA note. In brackets intervals.\n\n| Claim | Finding |\n|:--|:--|\n| kNN helps | held |\n"
COST = "# Cost\n\nA note.\n\n| Stage | Jobs |\n|:--|--:|\n| train | 2 |\n"
VERDICTS = ("held", "held", "did not hold", "cannot be judged at this scale")


def drawn(folder: Path, name: str) -> None:
    """A figure of two lines, as `knnlm plot` saves it."""
    figures.prepare()
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot((1, 2, 4), (30, 20, 10), "o-", color=figures.BLUE)
    axes.axhline(25, color=figures.INK)
    numbers = pd.DataFrame({"series": ["base", "knn", "knn", "knn"], "k": (0, 1, 2, 4), "dev": (25, 30, 20, 10)})
    figures.save(figure, numbers, folder / name)


def ledger() -> list[dict[str, str]]:
    """One claim for each of VERDICTS, of Table 1 or Figure 4."""
    outputs = ("table1", "figure4", "figure4", "table1")
    return [
        {
            "id": f"c{i}",
            "output": outputs[i],
            "section": f"{i + 1}",
            "quote": f"claim <{i}>",
            "paper": f"{i}.5",
            "ours": "123456.78 → 2.00",
            "intervals": "knn over base +0.1 [+0.05, +0.15]",
            "verdict": verdict,
            "criterion": "it is better",
            "reason": "2 documents are too few" if verdict.startswith("cannot") else "",
        }
        for i, verdict in enumerate(VERDICTS)
    ]


def table(folder: Path, name: str, markdown: str, rows: list[dict]) -> Path:
    """The three files of a table."""
    (folder / f"{name}.md").write_text(markdown)
    (folder / f"{name}.tex").write_text(f"% {name}, λ\n")
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder / f"{name}.md"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of two figures."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("figure4", "figure7"):
        drawn(folder, name)
    return folder


@pytest.fixture
def config(tmp_path: Path, pictures: Path) -> report.ReportConfig:
    shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
    rows = [{"label": "LM <b>", "dev": "20", "test": "25"}, {"label": "+ kNN", "dev": "15", "test": "20"}]
    stages = [
        {"stage": "train", "jobs": "2", "seconds": "6000", "longest": "5000", "peak_mb": "2500", "peak_bytes": "3e8"}
        | {"paper": "two weeks"},
        {"stage": "all", "jobs": "3", "seconds": "8000", "longest": "5000", "peak_mb": "2500", "peak_bytes": "3.2e9"}
        | {"paper": ""},
    ]
    tables = (
        table(tmp_path, "table1", TABLE, rows),
        table(tmp_path, "claims", CLAIMS, ledger()),
        table(tmp_path, "cost", COST, stages),
    )
    (tmp_path / "examples.md").write_text(
        "# Where kNN helps\n\n> one \\<script\\> **two**\n\np_kNN = 0.640, p_LM = 0.090, mixture 0.240\n"
    )
    (tmp_path / "study.yaml").write_text(
        f"study: tiny  # <comment>\ndownloads: {tmp_path}/archives\nhome: {Path.home()}/x\n"
    )
    for number, commit in enumerate(("abc", "def")):
        versions = {"numpy": "2.4", "processor": "Xeon, 2 cores"}
        (tmp_path / f"{number}.json").write_text(json.dumps({"commit": commit, "versions": versions}))
    (tmp_path / "news").mkdir()
    shares = {"ngrams": 0.0123, "documents": 0.25}
    none = {"ngrams": 0.0, "documents": 0.0}
    overlap = {
        "dev": shares | {"sources": {"a": none, "b": shares}},
        "test": none | {"sources": {"a": none}},
    }
    sizes = {"train": 1234567, "dev": 1000, "test": 2000}
    meta = {"words": sizes, "documents": sizes, "overlap": overlap, "inputs": {"raw": {"path": str(tmp_path / "raw")}}}
    (tmp_path / "news/meta.json").write_text(json.dumps(meta))
    return report.ReportConfig(
        study="tiny",
        tables=tables,
        figures=(tmp_path / "figure4.svg", tmp_path / "figure7.svg"),
        captions=ROOT / "workflow/report",
        examples=tmp_path / "examples.md",
        explorer=tmp_path / "explorer.html",
        configs=(tmp_path / "study.yaml",),
        metas=(tmp_path / "0.json", tmp_path / "1.json"),
        corpora=(tmp_path / "news/meta.json",),
        deviations=ROOT / "docs/differences.md",
        citation=ROOT / "CITATION.cff",
        note="A note.",
        out=tmp_path / "report.html",
    )


def test_the_report_holds_everything_and_fetches_nothing(config):
    report.main(config)
    page = config.out.read_text()
    for part in (
        "<b>2</b>of 4 claims held",
        '<b class="failed">did not hold</b></strong> – kNN helps',
        '<td><b class="held">held</b>',
        "1.23×10⁵ → 2.00",
        "claim &lt;0&gt;",
        '<td style="text-align:right">17.96</td>',
        "20.00\u00a0[19.00,\u00a021.00]",
        "LM &lt;b&gt;",
        "one &lt;script&gt; <strong>two</strong>",
        "series: knn\nk: 2\ndev: 20</title>",
        "series: base\ndev: 25</title>",
        "Perplexity on dev against the number of neighbors",
        "<summary>study.yaml</summary><pre>study: tiny  # &lt;comment&gt;",
        "<dt>Machine</dt><dd>Xeon, 2 cores</dd>",
        "<dd>three jobs took 2 h 13 min together, the longest 1 h 23 min, with at most 2.5 GB of memory</dd>",
        "<dt>Commit</dt><dd>abc, def</dd>",
        "@inproceedings{khandelwal2020,",
        "<code>abc</code>, <code>def</code>",
        "p<sub>kNN</sub>",
        'href="explorer.html"',
        "<td>news</td><td>train</td><td>1,234,567</td><td>1,234,567</td><td></td>",
        "<td>dev</td><td>1,000</td><td>1,000</td><td>1.23%</td><td>25.0%</td><td>b 1.23%</td>",
        "<td>test</td><td>2,000</td><td>2,000</td><td>0.00%</td><td>0.0%</td><td></td>",
    ):
        assert part in page, part
    assert page.count("A note.") == 1  # not above every table
    assert 'src="http' not in page and "<script" not in page and "@import" not in page
    assert set(re.findall(r'(?:href|src)="(?!#|data:|https://)([^"]*)"', page)) == {"explorer.html"}


def test_a_reader_of_the_page_alone_has_the_files_of_each_table_and_figure(config):
    report.main(config)
    links = re.findall(r'<a download="([^"]+)" href="data:([^"]+);base64,([^"]+)">', config.out.read_text())
    kept = {name: base64.b64decode(content) for name, _, content in links}
    expected = {f"{name}.{end}" for name in ("table1", "claims", "cost") for end in ("csv", "tex")}
    assert set(kept) == expected | {f"{name}.{end}" for name in ("figure4", "figure7") for end in ("csv", "pdf")}
    assert all(content == (config.out.parent / name).read_bytes() for name, content in kept.items())
    assert {kind for name, kind, _ in links if name.endswith(".csv")} == {"text/csv;charset=utf-8"}


def test_no_path_of_the_machine_stands_in_the_page(config, monkeypatch):
    for path in config.tables[0], config.examples, config.tables[0].with_suffix(".csv"):
        path.write_text(path.read_text() + f"\n{config.out.parent}/archives and {ROOT}/knnlm\n")
    monkeypatch.chdir(ROOT)
    report.main(config)
    page = config.out.read_text()
    inside = [base64.b64decode(content).decode(errors="replace") for content in re.findall(r";base64,([^\"]+)", page)]
    shown = re.sub(r";base64,[^\"]+", "", page)
    for text in (shown, *inside):
        for place in (str(config.out.parent), str(ROOT), str(Path.home()), os.sep + "work" + os.sep):
            assert place not in text, place
    assert "downloads: results/" in page or "downloads: …/archives" in page


def test_the_date_is_that_of_the_newest_table(config):
    for path, day in zip(config.tables, (3, 5, 4), strict=True):
        os.utime(path, (day * 86400, day * 86400))
    report.main(config)
    assert "<dt>Date</dt><dd>6 January 1970</dd>" in config.out.read_text()


def test_ids_of_several_figures_differ_and_each_reference_has_its_own(config):
    report.main(config)
    page = config.out.read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {*re.findall(r'xlink:href="#([^"]+)"', page), *re.findall(r"url\(#([^)]+)\)", page)} <= set(ids)
    assert "#0072b2" not in page.split("</style>", 1)[1].split('<section id="configuration">')[0]  # a color of its own


def test_sentences_say_what_is_claimed_what_was_measured_and_what_it_means(config):
    report.main(config)
    page = " ".join(config.out.read_text().split())
    for sentence in (
        "The paper makes four claims that numbers can decide.",
        "Of the four claims, two held, one did not hold and one cannot be judged at this scale: “claim &lt;2&gt;”; "
        "“claim &lt;3&gt;” (2 documents are too few). What did not hold: “claim &lt;2&gt;” (§3).",
        "Measured here are two perplexities on test: the lowest, 20.00 (kNN), is 20.0% below the highest, 25.00 "
        "(LM &lt;b&gt;). Of the two claims, one held and one cannot be judged at this scale: “claim &lt;3&gt;”",
        "The paper claims: “claim &lt;1&gt;” (§2); “claim &lt;2&gt;” (§3). Measured here: 1.23×10⁵ → 2.00; 1.23×10⁵ → "
        "2.00. In the paper: 1.5; 2.5. Of the two claims, one held and one did not hold: “claim &lt;2&gt;”.",
        "The paper says of the time: train, two weeks. Here three jobs took 2 h 13 min together",
        "files took at most 3.2 GB at once. Most of the time went into train (75%).",
        "probability of 0.64 to 0.64, the LM alone one of 0.09 to 0.09.",
    ):
        assert sentence in page, sentence


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((3, 0, 2, 0), "Of the five claims, three held and two are within noise."),
        ((3, 1, 1, 0), "Of the five claims, three held, one did not hold and one is within noise."),
        ((0, 0, 1, 0), "Here the claim is within noise."),
        ((0, 0, 2, 0), "Here both claims are within noise."),
        ((0, 0, 3, 0), "Here all three claims are within noise."),
    ],
)
def test_verdicts_are_counted_from_what_held_to_what_cannot_be_judged(counts, sentence):
    names = ("held", "did not hold", "within noise", "cannot be judged at this scale")
    claims = [{"verdict": name} for name, count in zip(names, counts, strict=True) for _ in range(count)]
    assert prose.verdicts(claims) == sentence == prose.verdicts(claims[::-1])


@pytest.mark.parametrize(
    ("others", "end"),
    [
        ([("cannot be judged", "few"), ("cannot be judged", "few")], " and two cannot be judged: few."),
        ([("cannot be judged", "few"), ("cannot be judged", "short")], " and two cannot be judged."),
        ([("within noise", ""), ("cannot be judged", "few")], ", one is within noise and one cannot be judged."),
    ],
)
def test_a_reason_that_all_claims_share_is_told_once(others, end):
    at_this_scale = "cannot be judged at this scale"
    claims = [{"verdict": "held", "reason": ""}] * 4
    claims += [{"verdict": at_this_scale if why else verdict, "reason": why} for verdict, why in others]
    assert prose.verdicts(claims) == "Of the six claims, four held" + end.replace("cannot be judged", at_this_scale)


def test_a_study_without_a_role_in_the_paper_speaks_of_its_own_results(config):
    report.main(replace(config, tables=config.tables[:1], own=True, deviations=None, citation=None))
    page = config.out.read_text()
    assert "<h1>kNN-LM: the tiny study</h1>" in page and "A note." in page
    for part in (
        "claims held",
        "judged",
        "beside ours",
        "reproduced",
        "What came after",
        "The paper",
        'id="deviations"',
    ):
        assert part not in page, part


def test_the_same_bytes_twice(config):
    report.main(config)
    first = config.out.read_bytes()
    report.main(config)
    assert config.out.read_bytes() == first


def test_every_figure_of_the_workflow_has_a_caption():
    for name in ("1", "2a", "2b", "3", "4", "5", "7", "8"):
        assert report.caption(ROOT / "workflow/report", f"figure{name}")


def test_a_missing_table_is_one_clear_line(config):
    config.tables[0].unlink()
    with pytest.raises(files.UserError, match="no such file; run the stage that makes it"):
        report.main(config)


@pytest.fixture
def wide(config):
    """A report whose first table has more columns than a phone or a sheet of paper is wide."""
    cells = [f"12{i}.50 [{i}.00, {i}.50]" for i in range(8)]
    rows = "".join(f"| method number {line} | {' | '.join(cells)} |\n" for line in range(60))
    head = f"| Model | {' | '.join(f'column{i}' for i in range(8))} |\n|:--|{'--:|' * 8}\n"
    config.tables[0].write_text(f"# Table\n\nA note.\n\n{head}{rows}")
    report.main(config)
    return config.out


def test_on_a_phone_the_first_column_stays_and_only_tables_scroll(browser, wide):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(wide.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    table, first = page.locator("#table1 .wide"), page.locator("#table1 td").first
    assert "scroll sideways" in table.evaluate("box => getComputedStyle(box, '::before').content")
    left = first.bounding_box()["x"]
    table.evaluate("box => box.scrollLeft = 500")
    assert table.evaluate("box => box.scrollLeft") > 100 and first.bounding_box()["x"] == pytest.approx(left, abs=1)
    page.close()


def test_claims_are_filtered_by_verdict(browser, config):
    report.main(config)
    page = browser.new_page(java_script_enabled=False)
    page.goto(config.out.as_uri())
    rows = page.locator("#claims tbody tr")
    assert [rows.nth(i).is_visible() for i in range(4)] == [True] * 4
    for choice, shown in (("held: 2", (0, 1)), ("did not hold: 1", (2,)), ("all 4", range(4))):
        page.get_by_text(choice, exact=True).click()
        assert [i for i in range(4) if rows.nth(i).is_visible()] == list(shown)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser, config, scheme):
    report.main(config)
    page = browser.new_page(color_scheme=scheme)
    page.goto(config.out.as_uri())
    worst = page.evaluate(CONTRAST)
    assert worst[0] >= 4.5, worst
    page.close()


CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = color => {
    const [r, g, b] = color.slice(0, 3).map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = rgb(getComputedStyle(element).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [...document.querySelectorAll("body *:not(svg *)")]
    .filter(element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .map(element => {
      const pair = [light(rgb(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
      return [(pair[0] + 0.05) / (pair[1] + 0.05), element.outerHTML.slice(0, 120)];
    });
  return found.sort((a, b) => a[0] - b[0])[0];
}"""


def test_in_print_no_column_is_lost_and_no_page_is_empty(browser, wide, tmp_path):
    page = browser.new_page(color_scheme="dark")
    page.goto(wide.as_uri())
    page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    page.close()
    if not shutil.which("pdftotext"):
        pytest.skip("pages of print are read by pdftotext: apt-get install poppler-utils")
    run = subprocess.run(
        ["pdftotext", "-layout", tmp_path / "report.pdf", "-"], capture_output=True, text=True, check=True
    )
    pages = run.stdout.split("\f")[:-1]
    assert len(pages) > 3 and min(len(text.split()) for text in pages) > 5
    found = " ".join(run.stdout.split())
    assert all(f"12{i}.50" in found for i in range(8)) and found.count("127.50") >= 60
    assert "7.50]" in found
