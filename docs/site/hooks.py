"""The README is the start page, and the results are part of the site, though neither lies in docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SHOWN = ("*.md", "*.svg", "*.png", "*.json", "*.csv")


def on_files(files: Files, config: Any) -> Files:
    """Add README.md as index.md and what of results/ pages link to."""
    readme = (ROOT / "README.md").read_text().replace("](docs/", "](")
    readme = readme.replace("](CONTRIBUTING.md)", "](contributing.md)")
    files.append(File.generated(config, "index.md", content=readme))
    contributing = (ROOT / "CONTRIBUTING.md").read_text().replace("](docs/notes)", "](notes/design-history.md)")
    contributing = contributing.replace("](docs/", "](").replace("](README.md)", "](index.md)")
    files.append(File.generated(config, "contributing.md", content=contributing))
    for pattern in SHOWN:
        for path in sorted((ROOT / "results").rglob(pattern)):
            files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """In the repository, docs/ is a folder beside results/; on the site, it is the root."""
    if page.file.src_uri.startswith("results/"):
        return re.sub(r"\]\(((?:\.\./)+)docs/", r"](\1", markdown)
    return re.sub(r"\]\((\.\./)*results/", lambda found: "](" + "../" * page.file.src_uri.count("/") + "results/", markdown)
