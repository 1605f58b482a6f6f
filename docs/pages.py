"""A hook of MkDocs: the site is README.md with all files of the repository that links lead to from there.

Each file keeps its path in the repository, so that a relative link leads to the same file on GitHub and on the site.
"""

import re
from os.path import normpath
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

LINK = re.compile(r"\]\(([^)\s#]+)")


def linked(page: Path) -> list[Path]:
    """The files that the relative links of a Markdown file lead to; of other files, none."""
    text = page.read_text(encoding="utf-8") if page.suffix == ".md" else ""
    targets = (Path(normpath(page.parent / link)) for link in LINK.findall(text))
    return [target for target in targets if target.is_file()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put README.md, and what can be reached from it, in place of the files in docs/."""
    root = Path(config.config_file_path).parent
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    found = [root / "README.md"]
    for page in found:  # grows as it is read
        found += [target for target in dict.fromkeys(linked(page)) if target not in found]
    for path in found:
        files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    return files
