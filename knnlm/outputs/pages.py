"""HTML and Markdown pages, made from the Jinja templates in the folder `templates`."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from knnlm.outputs.markdown import paragraph, plain

TEMPLATES = Path(__file__).parent / "templates"


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
