"""Model repositories as a machine serves them: the tree's own, or one of links to it with other configurations of some models."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

MODEL, TWIN, ENSEMBLE = "validate", "compile", "generate"
_COUNT = re.compile(r"(instance_group \[ \{ count: )\d+( )")
_COMPILED = re.compile(r",\s*\{ name: \"compiled\"[^}]*\}")


def served_repository(repository: Path, folder: Path, *, instances: Mapping[str, int], cached: bool) -> Path:
    """The repository itself, or one in the folder that differs from it in configurations alone: equal ones are made once.

    ``instances`` tells of some models, where the repository has them, how many processes they have.
    A cached response holds the outputs that its first request asked for, whatever later ones ask for. So with the response
    cache ``validate`` has one output, and the ensemble's grammars come from a twin that is not cached.
    """
    configured: dict[str, tuple[str, str]] = {}
    for model, count in instances.items():
        text = _configuration(repository, model)
        if (counted := _COUNT.sub(rf"\g<1>{count}\g<2>", text)) != text:
            configured[model] = (model, counted)
    if cached and (text := _configuration(repository, MODEL)):
        text = configured.get(MODEL, (MODEL, text))[1]
        configured[MODEL] = (MODEL, _COMPILED.sub("", text) + "response_cache { enable: true }\n")
        configured[TWIN] = (MODEL, text.replace(f'name: "{MODEL}"', f'name: "{TWIN}"'))
        if ensemble := _configuration(repository, ENSEMBLE):
            configured[ENSEMBLE] = (ENSEMBLE, ensemble.replace(f'model_name: "{MODEL}"', f'model_name: "{TWIN}"'))
    return _linked(repository, folder, configured) if configured else repository


def _configuration(repository: Path, model: str) -> str:
    path = repository / model / "config.pbtxt"
    return path.read_text() if path.is_file() else ""


def _linked(repository: Path, folder: Path, configured: Mapping[str, tuple[str, str]]) -> Path:
    """A repository of links, but for these models: each has its files from a model of the repository, and a configuration of its own."""
    links = {Path(path.name): path for path in repository.iterdir() if path.name not in configured}
    for name, (source, _) in configured.items():
        links |= {Path(name, path.name): path for path in (repository / source).iterdir() if path.name != "config.pbtxt"}
    content = repr((sorted(links.items()), sorted(configured.items())))
    made = folder / hashlib.sha256(content.encode()).hexdigest()[:16]
    if made.is_dir():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder))
    for name, (_, text) in configured.items():
        (draft / name).mkdir()
        (draft / name / "config.pbtxt").write_text(text)
    for link, target in links.items():
        (draft / link).symlink_to(target)
    draft.chmod(0o755)
    try:
        draft.rename(made)
    except OSError:
        # Another launch has made it meanwhile.
        shutil.rmtree(draft)
    return made
