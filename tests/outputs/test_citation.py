"""BibTeX from CITATION.cff."""

from pathlib import Path

import pytest

import knnlm
from knnlm.artifacts.files import UserError
from knnlm.outputs import citation

ROOT = Path(__file__).parents[2]


def test_the_paper_and_the_package_are_cited():
    paper, package = citation.bibtex(ROOT / "CITATION.cff").split("\n\n")
    assert paper.splitlines() == [
        "@inproceedings{khandelwal2020,",
        "  author = {Khandelwal, Urvashi and Levy, Omer and Jurafsky, Dan and Zettlemoyer, Luke and Lewis, Mike},",
        "  title = {{Generalization through Memorization: Nearest Neighbor Language Models}},",
        "  booktitle = {International Conference on Learning Representations},",
        "  year = {2020},",
        "}",
    ]
    assert package.startswith("@software{knnlm,") and f"version = {{{knnlm.__version__}}}" in package


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        citation.bibtex(tmp_path / "CITATION.cff")
