"""`wordbrush methods` and `wordbrush models`: the methods and their options, the models on this machine."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wordbrush import editing, inversion, training
from wordbrush.cli.options import flags
from wordbrush.cli.options.setup import Json
from wordbrush.cli.terminal import Terminal
from wordbrush.editing.presets import PRESETS
from wordbrush.methods import FAMILIES, Method, find, key, typed

_TABLES: Mapping[str, Mapping[str, Method[Any]]] = {
    "editing": editing.METHODS,
    "inversion": inversion.METHODS,
    "training": {**training.METHODS, **training.AT_ONCE},
}


def methods(name: str | None = None, /, *, json: Json = False) -> int:
    """List the methods, or the options of one.

    Parameters
    ----------
    name
        a method
    """
    terminal = Terminal(as_json=json)
    if name is None:
        for kind, table in _TABLES.items():
            for line in _listed(kind, table):
                terminal.say(line)
        terminal.say("presets of edit:")
        terminal.rows({typed(name): preset.summary for name, preset in PRESETS.items()})
        terminal.say(
            "measured: its row is in docs/benchmarks; run: computed on random weights of that shape alone"
        )
        summaries = {kind: _summaries(table) for kind, table in _TABLES.items()}
        terminal.finish(
            **summaries,
            presets={name: preset.summary for name, preset in PRESETS.items()},
            seen={name: dict(method.seen) for table in _TABLES.values() for name, method in table.items()},
        )
        return 0
    method = find(
        {name: method for table in _TABLES.values() for name, method in table.items()}, name, "such"
    )
    options = method.options()
    terminal.say(f"{typed(name)}: {method.summary}")
    terminal.rows(
        {
            f"--{typed(key)} {flags.metavar(field.annotation)}": flags.describe(field)
            for key, field in options.model_fields.items()
        }
    )
    terminal.finish(name=key(name), summary=method.summary, options=options.model_json_schema())
    return 0


def models(*, json: Json = False) -> int:
    """List the models on this machine: the built-in one, and those in the hub's cache."""
    terminal = Terminal(as_json=json)
    with terminal.busy("looking"):
        found = [*_built_in(), *_cached()]
    for model in found:
        terminal.say(f"{model['name']}  {model['bytes'] / 1e6:,.0f} MB  {model['path']}")
        terminal.rows(model.get("figures", {}))
    terminal.finish(models=found)
    return 0


def _built_in() -> Iterator[dict[str, Any]]:
    from wordbrush.model import POCKET

    size = sum(file.stat().st_size for file in POCKET.rglob("*") if file.is_file())
    yield {"name": "pocket", "path": str(POCKET), "bytes": size, "figures": _figures(POCKET / "README.md")}


def _figures(card: Path) -> dict[str, str]:
    """A model's measured figures, from the table in its card."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, flags=re.MULTILINE))


def _cached() -> Iterator[dict[str, Any]]:
    """The diffusers models in the hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        files = {file.file_name for revision in repository.revisions for file in revision.files}
        if repository.repo_type == "model" and "model_index.json" in files:
            yield {
                "name": repository.repo_id,
                "path": str(repository.repo_path),
                "bytes": repository.size_on_disk,
            }


def _listed(kind: str, table: Mapping[str, Method[Any]]) -> Iterator[str]:
    """A table of methods, each with what was seen of it on each family of models."""
    wide = max(len(typed(name)) for name in table)
    columns = {family: max(len(title), len("measured")) for family, title in FAMILIES.items()}
    titles = "  ".join(f"{FAMILIES[family]:<{width}}" for family, width in columns.items())
    yield f"{kind + ':':<{wide + 2}}  {titles}".rstrip()
    for name, method in table.items():
        marks = "  ".join(f"{method.seen[family]:<{width}}" for family, width in columns.items())
        yield f"  {typed(name):<{wide}}  {marks}  {method.summary}"


def _summaries(table: Mapping[str, Method[Any]]) -> dict[str, str]:
    return {name: method.summary for name, method in table.items()}
