"""LaTeX tables: any text shows unchanged, they fit an A4 article, and, where LaTeX is present, they compile without
overfull boxes: those of the references, of a made-up study and of hostile text."""

import random
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from knnlm.outputs import markdown, tables, tabulate, typeset

ROOT = Path(__file__).parents[2]
ENGINES = ("pdflatex", "xelatex", "lualatex", "tectonic")
HOSTILE = [
    r"50% & $x_1^2$ #3 {a} ~b \\ \input{/etc/passwd} \end{longtable}",
    "[1, 2] * starts a row",
    "* after a row",
    "naïve Škoda Łódź Ødegård ﬁne façade",
    '“quotes” ‘single’ <tags> |bars| `tick` "straight" – — … §4 ½',
    "α τ θ λ ∞ ≤ ≥ ≈ ± × · → − ° µ Δ ² 10⁷ 10⁻¹²",
    "漢字かな한국어 عربى 😀 \u202e\u200f\u0000\x07\ttab",
    "W" * 300,
    "pneumonoultramicroscopicsilicovolcanoconiosis/" * 4,
    "ffn_input_ln-second_last_" * 8,
    "",
]


def table(rows: int, columns: int, seed: int, hostile: bool = True) -> pd.DataFrame:
    """A table as wide and long as told, of hostile text and of numbers with intervals; column 0 is Model."""
    chosen = random.Random(seed)
    numbers = ["–", "0.285", "130.45 (129.23–131.81) [120.64, 139.53]", "−9.03×10⁷ [+6.61×10⁷, 1.22×10⁸]"]
    texts = HOSTILE if hostile else ["+ kNN-LM + continuous cache", "LM"]
    names = ["Model", *(chosen.choice(["Dev", "100% of_it", "漢 & #1"]) for _ in range(columns - 1))]
    cells = [[chosen.choice(texts), *chosen.choices(numbers + texts * hostile, k=columns - 1)] for _ in range(rows)]
    return pd.DataFrame(cells, columns=names)


def read(page: Path) -> str:
    """The LaTeX of a table, made again from its Markdown page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    plain = [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row] for row in cells]
    below: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("**"):
            below[line.strip("*")] = []
        elif line.startswith("- "):
            below[list(below)[-1]].append(re.sub(r"\\(.)", r"\1", line[2:].replace("**", "")))
    shown = pd.DataFrame(plain[2:], columns=plain[0]).map(markdown.scientific)
    return typeset.latex(lines[0][2:], lines[2], shown, tables.aligned_left(shown), below)


def made(folder: Path, table: str, **rows: object) -> str:
    """The LaTeX that `tabulate` writes of a made-up study."""
    paths = {name: tuple(found) for name, found in synthetic.write(folder / "study").items()}
    paper = ROOT / "config/paper_numbers.yaml"
    tabulate.main(tabulate.TabulateConfig(table=table, paper=paper, out=folder, note="\n".join(HOSTILE), **paths))
    return (folder / f"{table}.tex").read_text(encoding="utf-8")


def compiled(engine: str, texts: dict[str, str], folder: Path, options: str) -> str:
    """The log of a document with these tables, each announced by its name."""
    packages = ",".join(re.findall(r"\w+", typeset.PACKAGES.replace(" and ", ", ")))
    said = "\n".join(f"\\typeout{{=== {name}}}\n{text}" for name, text in texts.items())
    (folder / "all.tex").write_text(
        f"\\documentclass[a4paper,{options}]{{article}}\n\\usepackage{{{packages}}}\n"
        f"\\begin{{document}}\n{said}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    flags = (
        ["--keep-logs"] if engine == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape"]
    )
    ran = subprocess.run([engine, *flags, "all.tex"], cwd=folder, capture_output=True, timeout=120, check=False)
    log = (folder / "all.log").read_text(encoding="utf-8", errors="replace")
    assert ran.returncode == 0, "\n".join(line for line in log.splitlines() if line[:1] in "!l=")[-2000:]
    return log


TEXTS = {
    r"50% & $x_1^2$ #3 {a}": r"50\% \& \$x\_\penalty50{}1\textasciicircum{}2\$ \#3 \{a\}",
    r"\input{~}": r"\textbackslash{}input\{\textasciitilde{}\}",
    "a<b>|c": r"a\textless{}b\textgreater{}\textbar{}c",
    "λ 10⁻¹² − 5²": r"$\lambda$ 10$^{-12}$ $-$ 5$^{2}$",
    "Čapek, ﬁn, ½, 漢": r"\v{C}apek, fin, 1/2, U+6F22",
    "a\x00\u202eb\tc": "ab c",
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.items())
def test_text_is_escaped_once(text: str, expected: str):
    assert typeset.escaped(text, 345, 8) == expected


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_written_is_ascii_with_balanced_braces_and_no_open_comment(text: str):
    made = typeset.escaped(text, 100, 8)
    bare = re.sub(r"\\[{}\\%&$#_]", "", made)
    assert made.isascii() and bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not set("%&#_~") & set(bare) and not set(map(ord, made)) & set(range(32))


@pytest.mark.parametrize(("rows", "columns", "seed"), [(3, 2, 0), (40, 5, 1), (9, 9, 2), (20, 16, 3)])
def test_columns_and_the_gaps_between_them_are_no_wider_than_the_line(rows: int, columns: int, seed: int):
    for hostile in (False, True):
        text = typeset.latex("Title", "Note.", table(rows, columns, seed, hostile), {"Model"}, {})
        widths = [float(width) for width in re.findall(r"p\{([\d.]+)pt\}", text)]
        turned = r"\begin{landscape}" in text
        assert len(widths) == columns and min(widths) > 0
        line = typeset.LINES["landscape" if turned else "portrait"]
        assert sum(widths) + 2 * typeset.GAP * (columns - 1) <= line + 0.05 * columns
        assert turned == (r"\end{landscape}" in text) and turned >= (columns > 9)


@pytest.mark.parametrize("columns", [2, 6, 9])
def test_every_column_is_as_wide_as_its_interval_which_no_line_ends_within(columns: int):
    cells = ["a row", *["130.45 (129.23–131.81) [120.64, 139.53]"] * (columns - 1)]
    text = typeset.latex("A", "", pd.DataFrame([cells], columns=["Model", *"BCDEFGHI"][:columns]), {"Model"}, {})
    size = int(re.search(r"fontsize\{(\d)", text)[1])  # type: ignore[index]
    widths = [float(width) for width in re.findall(r"p\{([\d.]+)pt\}", text)]
    assert text.count("[120.64,~139.53]") == columns - 1
    assert min(widths[1:]) >= 0.5 * size * len("[120.64, 139.53]") * 0.9
    assert ("landscape}" in text) == (columns > 6)


def test_text_columns_are_ragged_right_and_numbers_ragged_left():
    text = typeset.latex("A", "", table(2, 3, 0), {"Model"}, {})
    assert re.findall(r"\\(ragged\w+)\\array", text) == ["raggedright", "raggedleft", "raggedleft"]


@pytest.mark.parametrize("options", ["10pt", "12pt"])
def test_tables_compile_and_no_box_is_overfull(tmp_path: Path, options: str):
    engine = next((name for name in ENGINES if shutil.which(name)), None)
    if engine is None:
        pytest.skip(f"found none of {', '.join(ENGINES)}")
    texts = {str(page): read(page) for page in sorted(ROOT.glob("results/reference/**/tables/*.md"))}
    assert len(texts) > 10
    texts |= {name: made(tmp_path / name, name) for name in ("table1", "table3", "claims")}
    for seed, (rows, columns) in enumerate([(1, 1), (70, 3), (12, 6), (5, 8)]):
        shown = table(rows, columns, seed)
        below = {HOSTILE[0]: HOSTILE, "nothing": []}
        texts[f"hostile {seed}"] = typeset.latex(HOSTILE[seed], " ".join(HOSTILE), shown, {"Model"}, below)
    log = compiled(engine, texts, tmp_path, options)
    assert log.count("=== ") == len(texts)
    assert [line for line in log.splitlines() if re.match(r"Overfull|.*too large|.*Missing character", line)] == []


def test_an_overfull_table_is_noticed(tmp_path: Path):
    if not (engine := next((name for name in ENGINES if shutil.which(name)), None)):
        pytest.skip(f"found none of {', '.join(ENGINES)}")
    text = typeset.latex("A", "b", table(3, 4, 0, hostile=False), {"Model"}, {})
    wide = re.sub(r"p\{[\d.]+pt\}", "p{99pt}", text)
    assert "Overfull" in compiled(engine, {"wide": wide}, tmp_path, "10pt")
