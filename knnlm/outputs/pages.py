"""HTML and Markdown pages, made from the Jinja templates in the folder `templates`."""

import re
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup

from knnlm.outputs.markdown import paragraph, plain

TEMPLATES = Path(__file__).parent / "templates"
THEMED = {  # colors of figures and the page's variables that stand in their place
    "#ffffff": "paper",
    "#000000": "ink",
    "#222222": "ink",
    "#767676": "muted",
    "#e6e6e6": "grid",
    "#0072b2": "plot-blue",
    "#56b4e9": "plot-sky",
    "#d55e00": "plot-vermilion",
}


def render(name: str, **facts: object) -> str:
    """The page `name` (for example report.html) with `facts`; in HTML they are escaped, unless they are `Markup`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "paragraph": paragraph, "probability": probability}
    return environment.get_template(f"{name}.j2").render(**facts)


def embedded(page: str, name: str, text: str) -> Markup:
    """An SVG file as a part of a page, in which several stand together.

    Its ids begin with `name`, its colors are the page's, `text` says what it is.
    """
    inside = page[page.index("<svg") :]
    inside = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", inside)
    inside = re.sub("|".join(THEMED), lambda color: f"var(--{THEMED[color[0]]})", inside)
    return Markup(inside.replace("<svg", f'<svg role="img" aria-label="{escape(text or name)}"', 1).strip())


def about_models(note: str, rows: list[dict]) -> str:
    """`note`, then of each pretrained model of the rows its description, what is odd in its key types, and licence."""
    found = [note] if note else []
    for name, row in {row["model"]: row for row in rows}.items():
        licence = f"({row['licence']})" if row.get("licence") else ""
        if told := [row[key] for key in ("description", "notes") if row.get(key)]:
            found.append(f"{name}: {' '.join(filter(None, ('; '.join(told), licence)))}.")
    return " ".join(found)


def probability(value: float) -> str:
    """Three decimals, or scientific notation where three decimals would show 0."""
    return f"{value:.3f}" if value >= 0.0005 or value == 0 else f"{value:.1e}"
