"""Add to mkdocs what it lacks here: pages that live outside docs/, and links that work in the repository too."""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES_ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "patches/README.md": "patches.md",
    "recipes/README.md": "recipes.md",
    "recipes/data/README.md": "data.md",
    "recipes/study/README.md": "study.md",
    "recipes/study/RESULTS.md": "results.md",
}
"""File of the repository -> page of the site."""
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
"""Groups: the target, and the anchor with its #."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live outside docs/, and the recipes' figures."""
    figures = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("recipes/*/**/*.png")}
    for source, page in {**PAGES_ELSEWHERE, **{figure: figure for figure in figures}}.items():
        files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point each relative link to a page of the site, or to the repository's web page where the site has none.

    A link that leads to no file stays as it is: mkdocs then names it and stops.
    """
    here = Path(str(page.file.abs_src_path)).parent
    pages = {Path(file.abs_src_path): file.src_uri for file in files if file.abs_src_path}

    def mended(link: re.Match[str]) -> str:
        target, anchor = link[1], link[2] or ""
        path = (here / target).resolve()
        if "://" in target or not path.exists():
            return link[0]
        uri = pages.get(path) or pages.get(path / "README.md")
        if uri is None:
            kind = "tree" if path.is_dir() else "blob"
            return f"]({config.repo_url}/{kind}/main/{path.relative_to(REPOSITORY).as_posix()}{anchor})"
        return f"]({os.path.relpath(uri, os.path.dirname(page.file.src_uri) or '.')}{anchor})"

    return LINK.sub(mended, markdown)
