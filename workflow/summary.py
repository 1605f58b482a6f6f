"""The last lines of a finished run: what the study's folder holds and how to look at it."""

from pathlib import Path

PAGES = {"examples/examples.html": "a page of examples", "explorer.html": "the explorer", "report.html": "the report"}


def summary(results: Path) -> str:
    """Two or three lines about those parts of a study that are there."""
    patterns = {"tables": "*.md", "figures": "*.png"}
    counts = {name: len([*(results / name).glob(pattern)]) for name, pattern in patterns.items()}
    parts = [f"{count} {name if count > 1 else name.removesuffix('s')}" for name, count in counts.items() if count]
    parts += [title for page, title in PAGES.items() if (results / page).exists()]
    lines = [f"Done. {results} holds {', '.join(parts) or 'the files that were asked for'}."]
    if (results / "report.html").exists():
        lines.append(f"Everything on one page, which needs no other file: open {results / 'report.html'} in a browser.")
    files = [str(results / name / pattern) for name, pattern in patterns.items() if counts[name]]
    if files:
        lines.append(f"One by one, beside the same in other formats: {' and '.join(files)}")
    return "\n".join(lines)
