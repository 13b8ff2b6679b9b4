"""mkdocs' hook: the site has the tree's own layout, so that a link in a document leads to the same file as in the repository.

mkdocs takes one folder of documents, and ours lie beside what they speak of: README.md, docs/, examples/, benchmarks/.
"""

from __future__ import annotations

from pathlib import Path

from list_files import tracked
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_SHOWN = (".md", ".png", ".json", ".txt", ".log", ".yaml", ".py", ".sh", ".mts")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The checkout's documents, and what they may link to, in place of those in ``docs_dir``; the theme's stay."""
    root = Path(config.config_file_path).parent
    ours = [File(path, str(root), config.site_dir, config.use_directory_urls) for path in tracked() if path.endswith(_SHOWN)]
    theirs = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*theirs, *ours])
