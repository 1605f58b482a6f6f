"""The report is one file with everything in it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from knnlm.artifacts import files
from knnlm.outputs import report

ROOT = Path(__file__).parents[2]
TABLE = """# WikiText-103 (paper: §4.1, Table 1)

A note.

| Model | Dev | Paper, dev |
|:------|----:|-----------:|
| LM <b> | 20.00 | 17.96 |

**Findings of the paper, here:**

- **did not hold** – kNN helps (§4.1).
"""
CLAIMS = "# Claims\n\n| Claim | Finding |\n|:--|:--|\n| kNN helps | held |\n"


@pytest.fixture
def config(tmp_path: Path) -> report.ReportConfig:
    (tmp_path / "table1.md").write_text(TABLE)
    (tmp_path / "claims.md").write_text(CLAIMS)
    (tmp_path / "claims.csv").write_text(
        "id,verdict\na,held\nb,held\nc,did not hold\nd,cannot be judged at this scale\n"
    )
    (tmp_path / "figure4.png").write_bytes(b"\x89PNG")
    (tmp_path / "examples.md").write_text("# Where kNN helps\n\n> one \\<script\\> **two**\n")
    (tmp_path / "study.yaml").write_text("study: tiny  # <comment>\n")
    for number, commit in enumerate(("abc", "def")):
        (tmp_path / f"{number}.json").write_text(json.dumps({"commit": commit, "versions": {"numpy": "2.4"}}))
    (tmp_path / "news").mkdir()
    shares = {"ngrams": 0.0123, "documents": 0.25}
    none = {"ngrams": 0.0, "documents": 0.0}
    overlap = {
        "dev": shares | {"sources": {"a": none, "b": shares}},
        "test": none | {"sources": {"a": none}},
    }
    sizes = {"train": 1234567, "dev": 1000, "test": 2000}
    (tmp_path / "news/meta.json").write_text(json.dumps({"words": sizes, "documents": sizes, "overlap": overlap}))
    return report.ReportConfig(
        study="tiny",
        tables=(tmp_path / "table1.md", tmp_path / "claims.md"),
        figures=(tmp_path / "figure4.png",),
        captions=ROOT / "workflow/report",
        examples=tmp_path / "examples.md",
        explorer=tmp_path / "explorer.html",
        configs=(tmp_path / "study.yaml",),
        metas=(tmp_path / "0.json", tmp_path / "1.json"),
        corpora=(tmp_path / "news/meta.json",),
        deviations=ROOT / "docs/differences.md",
        note="A note.",
        out=tmp_path / "report.html",
    )


def test_the_report_holds_everything_and_fetches_nothing(config):
    report.main(config)
    page = config.out.read_text()
    for part in (
        "<b>2</b>of 4 claims held",
        '<b class="failed">did not hold</b></strong> – kNN helps',
        '<td style="text-align:left"><b class="held">held</b>',
        '<td style="text-align:right">17.96</td>',
        "LM &lt;b&gt;",
        "one &lt;script&gt; <strong>two</strong>",
        "data:image/png;base64,iVBORw==",
        "Perplexity on dev against the number of neighbors",
        "study: tiny  # &lt;comment&gt;",
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


def test_a_study_without_a_role_in_the_paper_speaks_of_its_own_results(config):
    report.main(replace(config, tables=config.tables[:1], own=True, deviations=None))
    page = config.out.read_text()
    assert "<h1>kNN-LM: the tiny study</h1>" in page and "A note." in page
    for part in ("claims held", "judged", "beside ours", "reproduced", "What came after", 'id="deviations"'):
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
