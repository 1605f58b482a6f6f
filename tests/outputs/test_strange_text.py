"""Text of corpora and studies in every page, table and figure: shown as it is, never run or read as markup."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import tinystudy

from knnlm.outputs import diagrams, explore, figures, pages, report, tables
from knnlm.outputs.examples import Example, Neighbor
from knnlm.outputs.markdown import html

STRANGE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "&amp; &lt;b&gt; &#60;",
    r"\input{/etc/passwd} \end{longtable} \\ C:\new",
    "$x_1^2$ $\\frac{1}$ 5$",
    "100% of #1 & {a}",
    "a|b | c || d",
    "`tick` ``two`` ```",
    "*bold* _under_ ~~gone~~ **two",
    "[link](http://example.org) ![picture](http://example.org/x.png) <http://example.org>",
    "1. one - two + three # four > five === ---",
    "{{ 7 * 7 }} {% for x in y %}",
    "before\nafter\r\nand\rlast",
    "\u202eright to left\u202c \u200f\u2067mark\u2069",
    '"quoted" \'single\' = "x" onclick=alert(1)',
    '=HYPERLINK("http://example.org")',
]


class Shape(HTMLParser):
    """The elements of a page with the names of their attributes, and the text that it shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.shown: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data):
        self.shown.append(data)


def words(text: str) -> str:
    return " ".join(text.split())


def shown_like_harmless_words(make, text: str, times: int) -> None:
    """The page that `make` writes with the text has the elements of one with harmless words, and shows the text."""
    page, harmless = Shape(make(text)), Shape(make("harmless"))
    assert page.elements == harmless.elements
    seen, expected = words("".join(page.shown)), words("".join(harmless.shown))
    assert expected.count("harmless") == times == seen.count(words(text))
    assert seen == expected.replace("harmless", words(text))


@pytest.mark.parametrize("text", STRANGE)
@pytest.mark.parametrize("name", ["examples.html", "examples.md"])
def test_examples_show_text_as_it_is(name, text):
    def page(text: str) -> str:
        near = [Neighbor(text, text, hit, 1.0, 0.5) for hit in (True, False)]
        shown = [Example(text, text, 0.5, 0.1, 0.3, near)] * 2
        made = pages.render(name, examples=shown, lmbda=0.25, note=text)
        return str(html(made)) if name.endswith("md") else made

    shown_like_harmless_words(page, text, times=2 * (3 + 4) + 1)


@pytest.mark.parametrize("text", STRANGE)
def test_tables_show_text_as_it_is(text):
    def page(text: str) -> str:
        shown = pd.DataFrame({"Model": [text, "LM", text], "Dev": ["1.00", "2.00", "3.00"]})
        return str(html(tables.markdown(text, text, shown, {text: "on dev"}, [])))

    shown_like_harmless_words(page, text, times=5)


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        *((text, text.startswith("=")) for text in STRANGE),
        ("@SUM(1)", True),
        ("\t=1+1", True),
        ("+cmd|' /C calc'!A0", True),
        ("+ cmd|' /C calc'!A0", True),
        ("-2+3+cmd|' /C calc'!A0", True),
        ('+HYPERLINK("http://example.org")', True),
        ("-Sheet2!A1", True),
        ("+ kNN-LM", False),
        ("+ Transformer-XL (Dai et al. 2019), quoted", False),
        ("- - -", False),
        ("−0.5 [−0.6, −0.4]", False),
        ("a = b", False),
    ],
)
def test_csv_files_hold_no_formula_and_all_else_unchanged(text, formula):
    numbers = pd.DataFrame({"label": [text, "LM"], "dev": [-1.5, 123456.789], "entries": [1, -2]})
    content = tables.csv(numbers)
    rows = list(csv.reader(io.StringIO(content, newline="")))
    assert rows == [
        ["label", "dev", "entries"],
        ["'" * formula + text, "-1.5", "1"],
        ["LM", "123457", "-2"],
    ]
    if not formula:
        assert content == numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n")


@pytest.mark.parametrize("text", STRANGE)
def test_figure_1_draws_text_and_no_formula(tmp_path: Path, text):
    near = [{"context": text, "target": text, "distance": 1.0 + i, "weight": 0.5} for i in range(2)]
    likely = [{"word": text, "knn": 0.5, "lm": 0.5, "mixture": 0.5}]
    query = {"context": text, "target": text, "neighbors": near, "words": likely, "k": 2, "lmbda": 0.25}
    with figures.plt.rc_context():
        figures.prepare()
        ((name, (figure, numbers)),) = diagrams.figure1(query).items()
        drawn = [one for axes in figure.axes for one in axes.texts]
        assert not any(one.get_parse_math() or one.get_usetex() for one in drawn)
        bold = [one.get_text() for one in drawn if one.get_weight() == "bold"]
        assert bold == [diagrams.short(text)] * len(near) + ["?"]
        figures.save(figure, numbers, tmp_path / name)
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".png", ".svg", ".csv"}
    rows = list(csv.DictReader((tmp_path / "figure1.csv").open(newline="")))
    assert [row["target"] for row in rows[:2]] == [("'" if text.startswith("=") else "") + text] * 2


@pytest.mark.parametrize("text", STRANGE)
def test_the_report_shows_text_as_it_is(tmp_path: Path, text):
    def page(text: str) -> str:
        shown = pd.DataFrame({"Model": [text], "Dev": ["1.00"]})
        (tmp_path / "table1.md").write_text(tables.markdown("A table", text, shown, {}, []))
        (tmp_path / "table1.csv").write_text(tables.csv(shown))
        (tmp_path / "table1.tex").write_text(tables.latex("A table", text, shown, {}, []))
        near = [Neighbor(text, text, True, 1.0, 0.5)]
        shown_words = [Example(text, text, 0.5, 0.1, 0.3, near)]
        made = pages.render("examples.md", examples=shown_words, lmbda=0.25, note=text)  # the report has its own note
        (tmp_path / "examples.md").write_text(made)
        (tmp_path / "study.yaml").write_text(text, newline="")
        (tmp_path / "meta.json").write_text(json.dumps({"commit": text, "inputs": {}, "versions": {text: text}}))
        report.main(
            report.ReportConfig(
                study="tiny",
                tables=(tmp_path / "table1.md",),
                examples=tmp_path / "examples.md",
                configs=(tmp_path / "study.yaml",),
                metas=(tmp_path / "meta.json",),
                note=text,
                out=tmp_path / "report.html",
            )
        )
        return (tmp_path / "report.html").read_text()

    made, harmless = Shape(page(text)), Shape(page("harmless"))
    assert made.elements == harmless.elements
    seen, expected = words("".join(made.shown)), words("".join(harmless.shown))
    assert seen.count(words(text)) == expected.count("harmless") > 8


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tinystudy.write(tmp_path_factory.mktemp("results") / "tiny")


@pytest.mark.parametrize("text", [text for text in STRANGE if "<" in text or "&" in text or "{" in text])
def test_the_explorer_shows_text_as_it_is(study: Path, text):
    def page(text: str) -> str:
        out = study / "explorer.html"
        explore.main(explore.ExploreConfig(study=study, out=out, tokens=50, neighbors=2, words=2, note=text))
        return out.read_text()

    made, harmless = page(text), page("harmless")
    assert Shape(made).elements == Shape(harmless).elements
    assert words(text) in words("".join(Shape(made).shown))
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', made, re.DOTALL)
    assert "<" not in data and "</script><b>&amp;" in json.loads(data)["words"]  # a word of the corpus
