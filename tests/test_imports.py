"""The direction of imports: a row may import rows below it, never a row above it or another package of its own row."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fapn_d2"

#: From the top of the house to its ground; names are packages or modules of ``fapn_d2``.
ROWS = (
    ("tools", "datasets programs"),
    ("benchmark", "demo", "cluster"),
    ("reproduction",),
    ("engine",),
    ("visualization",),
    ("export",),
    ("inference",),
    ("checkpoint",),
    ("meta_arch",),
    ("heads",),
    ("necks",),
    ("evaluation",),
    ("backbones",),
    ("data",),
    ("config",),
    ("layers",),
    ("messages", "files", "pickles", "version"),
)
#: Imports that go down but must not be: the training run knows nothing of papers or other runtimes, and pictures and
#: ledgers work without a trainer.
FORBIDDEN = {("visualization", "engine"), ("reproduction", "engine"), ("engine", "export"), ("engine", "reproduction")}
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}


def imported_modules(source: str, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, full name) of what a module of ``fapn_d2`` imports from ``fapn_d2``, also inside of functions."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "fapn_d2" else [base]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.startswith("fapn_d2."))


def faults(source: str, module: str, place: str, *, is_package: bool = False, room: str = "") -> list[str]:
    """One sentence with file and line for each import that goes against the direction."""
    own = room or module.split(".")[1]
    found = []
    for line, name in imported_modules(source, module, is_package=is_package):
        other = name.split(".")[1]
        if other == own or other not in ROW_OF:
            continue
        if ROW_OF[other] <= ROW_OF[own] or (own, other) in FORBIDDEN:
            found.append(f"{place}:{line}: {own} must not import {other}")
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_import_goes_up():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "__init__.py":  # imports what registers itself
            continue
        is_package = path.name == "__init__.py"
        found += faults(path.read_text(), module_name(path), str(path.relative_to(ROOT)), is_package=is_package)
    assert not found, "\n" + "\n".join(found)


def test_every_part_of_the_package_has_a_row():
    parts = {path.stem for path in PACKAGE.iterdir() if path.name != "__init__.py" and not path.name.startswith("__")}
    assert parts == {name for row in ROWS[1:] for name in row}


def test_package_only_registers():
    """What ``import fapn_d2`` loads of its own stays below the rows that train, draw and report."""
    names = {
        name.split(".")[1]
        for _, name in imported_modules((PACKAGE / "__init__.py").read_text(), "fapn_d2", is_package=True)
    }
    assert names <= {"backbones", "checkpoint", "config", "data", "heads", "meta_arch", "necks", "version"}


def test_no_room_holds_more_than_a_fifth_of_the_lines():
    lines = {}
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0]
        lines[part] = lines.get(part, 0) + path.read_text().count("\n")
    total = sum(lines.values())
    assert {part: n for part, n in lines.items() if n > total / 5} == {}
    assert len(list((PACKAGE / "engine").glob("*.py"))) <= 15


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from ..engine.trainer import Trainer", "a.py:1: layers must not import engine"),
        ("import fapn_d2.heads", "a.py:1: layers must not import heads"),
        ("def f():\n    from .. import data", "a.py:2: layers must not import data"),
        ("from ..messages import some\nfrom .resize import resize_to\nimport torch", None),
    ],
)
def test_the_walk_finds_imports_of_all_kinds(source, fault):
    assert faults(source, "fapn_d2.layers.a", "a.py") == ([fault] if fault else [])
