"""Makes pages of the site from files outside docs/, and lets links lead to them; called by MkDocs."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

PAGES = {
    "index.md": "README.md",
    "demo.md": "examples/demo.ipynb",
    "examples.md": "examples/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmark-notes.md": "benchmarks/NOTES.md",
}
"""Page of the site → the file that it is made from."""

_LINK = re.compile(
    r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)|(?<=\]\()(?P<picture>docs/[^)\s]+)"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from files outside docs/."""
    for page, source in PAGES.items():
        content, pictures = _notebook(ROOT / source) if source.endswith(".ipynb") else ((ROOT / source).read_text(), {})
        if page == "index.md":
            content = f"---\nhide: [navigation]\n---\n\n{content}"
        files.append(File.generated(config, page, content=content))
        for name, picture in pictures.items():
            files.append(File.generated(config, name, content=picture))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to what is a page here lead to it; what is a file of the project alone is named instead.

    Links that lead nowhere are left for MkDocs, which refuses them.
    """
    here = page.file.src_uri
    source = PAGES.get(here, f"docs/{here}")
    page_of = {made_from: name for name, made_from in PAGES.items()}

    def place(target: str) -> tuple[str, str]:
        """The file in the project, and the page's or picture's name in the site: empty where there is none."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        name = page_of.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        return path, posixpath.relpath(name, posixpath.dirname(here) or ".") if name else ""

    def changed(link: re.Match[str]) -> str:
        if link["picture"]:
            return place(link["picture"])[1]
        text, target, anchor = link["text"], link["target"], link["anchor"] or ""
        if not target or "://" in target:
            return link[0]
        path, name = place(target)
        if name and text == path and path.endswith(".md"):
            text = (ROOT / path).read_text().partition("\n")[0].removeprefix("# ")
        if name:
            return f"[{text}]({name}{anchor})"
        if not os.path.exists(ROOT / path):
            return link[0]
        named = text.strip("`").rstrip("/")
        return f"`{path}`" if path.endswith(named) else f"{text} `{path}`"

    return _LINK.sub(changed, markdown)


def _notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """The page and the pictures of a notebook, as it was last executed."""
    content, resources = MarkdownExporter().from_notebook_node(
        nbformat.read(path, as_version=4), {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    )
    return content, resources["outputs"]
