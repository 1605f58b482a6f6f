"""Draw one figure of the paper from this study's numbers, as PDF, PNG, SVG and CSV."""

from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import files
from knnlm.artifacts.files import UserError
from knnlm.outputs import diagrams, figures
from knnlm.scores import experiments


@dataclass(frozen=True)
class PlotConfig:
    """Draw one figure of the paper from this study's numbers."""

    figure: str
    """figure1, figure2 (files figure2a and figure2b), figure3, figure4, figure5, figure7 or figure8"""
    out: Path
    """folder of the figures"""
    paper: Path | None = None
    """config/paper_numbers.yaml, which all figures but figure1 and figure3 need"""
    experiments: tuple[Path, ...] = ()
    """experiment files, the figure's own among them"""
    curves: tuple[Path, ...] = ()
    """for figure8: models/MODEL/seedS/curve.jsonl, the base LM's first, the memorizing one's second"""
    query: Path | None = None
    """for figure1: figure1.json, which `knnlm illustrate` writes"""


def main(config: PlotConfig) -> None:
    known = sorted([*figures.FIGURES, *diagrams.DIAGRAMS])
    if config.figure not in known:
        raise UserError(f"--figure {config.figure}: expected one of {', '.join(known)}")
    figures.prepare()
    for name, (figure, numbers) in draw(config).items():
        figures.save(figure, numbers, config.out / name)


def draw(config: PlotConfig) -> dict[str, figures.Drawn]:
    """The drawings of one figure and their numbers, by file name."""
    if config.figure in diagrams.DIAGRAMS:
        if config.figure == "figure1" and config.query is None:
            raise UserError("--figure figure1: found no --query; give figure1.json, which `knnlm illustrate` writes")
        return diagrams.DIAGRAMS[config.figure](files.read_json(config.query) if config.query else {})
    if config.paper is None:
        raise UserError(f"--figure {config.figure}: found no --paper; give config/paper_numbers.yaml")
    study = experiments.load(config.experiments, config.curves)
    paper = experiments.paper_numbers(config.paper)[config.figure]
    try:
        return figures.FIGURES[config.figure](study, paper)
    except experiments.Missing as missing:
        raise UserError(f"--figure {config.figure}: {missing}; give its experiment file or curves") from None
