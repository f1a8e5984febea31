"""From YAML files and KEY VALUE pairs to a config, with errors that name the key, the file and the nearest known names.

Detectron2 merges a whole file at once and fails with "Non-existent config key". Here every key is set separately, so
that the message can name the file behind ``_BASE_`` that contains the key.
"""

import ast
import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from ..messages import similar
from .keys import STRATEGY_KEYS, add_fapn_config, when_loaded
from .yaml_reading import read_yaml

logger = logging.getLogger(__name__)

BASE_KEY = "_BASE_"
#: The section whose keys users name themselves: ``DATASETS.CUSTOM.<data set>.<field>``.
_OPEN_SECTION = "DATASETS.CUSTOM"
#: The folder of this project's configs.
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_STRATEGIES = {f"MODEL.NECK.{key}" for key in STRATEGY_KEYS}


def default_config() -> CfgNode:
    """Every key with its default: Detectron2's keys, PointRend's if it is installed, and this project's."""
    cfg = get_cfg()
    try:
        from detectron2.projects.point_rend import add_pointrend_config
    except ImportError as error:
        logger.info("PointRend's keys are left out: %s", error)
    else:
        add_pointrend_config(cfg)
    add_fapn_config(cfg)
    return cfg


def load_config(config_file: str = "", opts: Sequence[Any] = ()) -> CfgNode:
    """The defaults, overridden by a YAML file and then by KEY VALUE pairs. The result is not frozen.

    A file may name bases under ``_BASE_``: one path or a list of paths, relative to the file. Later bases override
    earlier ones, and the file overrides all of them. A key whose default is None accepts values of any type, even if a
    base has set a value of another type (a strategy for all levels, then a list of strategies).

    The data sets under DATASETS.CUSTOM are registered. The numbers of classes and the ignore value follow from them,
    unless they are set in the file that describes the data sets or after it.

    Args:
        config_file: the path of a YAML file, or "" for the defaults.
        opts: the pairs ``["SOLVER.MAX_ITER", "100", ...]``. A value that is a Python literal is read as such.

    Raises:
        FileNotFoundError: the file, or a base of it, does not exist. The message names similar files.
        ValueError: a key is unknown (the message names similar keys), a value has the wrong type, the file is not YAML,
            bases refer to each other in a circle, or a description under DATASETS.CUSTOM is wrong.
    """
    cfg = default_config()
    free = {key for key, value in leaves(cfg) if value is None}
    sources = [(path, list(leaves(content))) for path, content in _with_bases(config_file)] if config_file else []
    sources.append(("the command line", _pairs(list(opts))))
    chosen: set[str] = set()
    for source, pairs in sources:
        for key, value in pairs:
            _assign(cfg, key, value, source=source, free=free)
        if chosen or any(key.startswith(f"{_OPEN_SECTION}.") for key, _ in pairs):
            chosen |= {key for key, _ in pairs}
    for function in when_loaded:
        function(cfg, chosen)
    return cfg


def _with_bases(path: str, stack: tuple[str, ...] = ()) -> list[tuple[str, dict]]:
    """(file, content) in the order of merging, bases first."""
    if os.path.realpath(path) in map(os.path.realpath, stack):
        raise ValueError(f"{BASE_KEY} runs in a circle: {' -> '.join((*stack, path))}")
    content = _read_yaml(path, needed_by=stack[-1] if stack else "")
    bases = content.pop(BASE_KEY, [])
    found = []
    for base in [bases] if isinstance(bases, str) else bases:
        base = os.path.join(os.path.dirname(path), os.path.expanduser(base))  # an absolute path stays as it is
        found += _with_bases(os.path.normpath(base), (*stack, path))
    return [*found, (path, content)]


def _read_yaml(path: str, needed_by: str) -> dict:
    if not os.path.isfile(path):
        named = f" (a base of {needed_by})" if needed_by else ""
        near = _near_files(path)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise FileNotFoundError(f"config file {path}{named} does not exist{hint}")
    if path.endswith(".py"):
        raise ValueError(
            f"config file {path} is a Python file. Detectron2's LazyConfig is not read; write a YAML file, as those in "
            f"configs/. A Python file that registers data sets or models goes behind --import"
        )
    text = Path(path).read_text()
    try:
        content = read_yaml(text)
    except yaml.constructor.ConstructorError as error:
        raise ValueError(f"{path} contains a YAML tag that is not read, because it could run code: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, not sections with keys")
    if content.get("VERSION", 2) != 2:
        raise ValueError(f"{path} has config version {content['VERSION']}; only version 2 of Detectron2 is read")
    return content


def _near_files(path: str, n: int = 3) -> list[str]:
    """YAML files with a similar name in the folder of ``path``, in ``./configs`` and in the checkout's ``configs``."""
    folders = {Path(path).parent, Path("configs"), CONFIGS}
    files = {p.resolve() for folder in folders if folder.is_dir() for p in folder.rglob("*.yaml")}
    wanted = Path(path).name
    ranked = sorted(files, key=lambda p: -difflib.SequenceMatcher(None, p.name, wanted).ratio())
    near = [p for p in ranked if difflib.SequenceMatcher(None, p.name, wanted).ratio() > 0.6]
    return [os.path.relpath(p) for p in near[:n]]


def leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full name, value) of every key below ``node``; empty sections are left out."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, dict):
            yield f"{prefix}{key}", value


def _pairs(opts: list) -> list[tuple[str, Any]]:
    opts = opts[1:] if opts[:1] == ["--"] else opts
    for option in opts:
        if isinstance(option, str) and option.startswith("--"):
            raise ValueError(f"the option {option} comes after KEY VALUE pairs; write options before them")
    if len(opts) % 2:
        raise ValueError(f"overrides are pairs KEY VALUE, but {opts[-1]!r} at the end of {opts} has no partner")
    return list(zip(opts[0::2], opts[1::2]))


def _assign(cfg: CfgNode, key: str, value: Any, *, source: str, free: set[str]) -> None:
    """Set one key, or raise ValueError with the reason."""
    if key.startswith(f"{_OPEN_SECTION}."):
        _assign_open(cfg, key, value, source)
        return
    node, passed = cfg, []
    for part in key.split("."):
        if not isinstance(node, CfgNode):
            raise ValueError(f"{'.'.join(passed)} takes a value and has no keys below it, but {source} sets {key}")
        if part not in node:
            near = _near_keys(cfg, key)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise ValueError(f"unknown config key {key} in {source}{hint}")
        parent, node = node, node[part]
        passed.append(part)
    if isinstance(node, CfgNode):
        raise ValueError(f"{key} in {source} is a section (with {', '.join(node)}), not a key; got {value!r}")
    if key in _STRATEGIES:
        parent[part] = _strategy(key, value, source)
        return
    if key in free:
        parent[part] = None  # yacs allows another type only if the old value is None
    elif isinstance(node, float) and type(_literal(value)) is int:
        value = float(_literal(value))
    elif isinstance(node, (tuple, list)):
        value = _words(value)
    try:
        cfg.merge_from_list([key, value])
    except ValueError as error:
        value = _literal(value)
        hint = f'; write ("{value}",)' if isinstance(node, (tuple, list)) and isinstance(value, str) else ""
        raise ValueError(
            f"{key} in {source} must be of type {type(node).__name__} (as {node!r} is), "
            f"got {value!r} of type {type(value).__name__}{hint}"
        ) from error


def _assign_open(cfg: CfgNode, key: str, value: Any, source: str) -> None:
    """Set ``DATASETS.CUSTOM.<data set>.<field>``; the fields are checked when the data set is registered."""
    names = key.removeprefix(f"{_OPEN_SECTION}.").split(".")
    if len(names) != 2:
        raise ValueError(f"{key} in {source} is not {_OPEN_SECTION}.<data set>.<field>; names have no dots")
    section = cfg.DATASETS.CUSTOM
    if names[0] not in section:
        section[names[0]] = CfgNode(new_allowed=True)
    section[names[0]][names[1]] = _literal(value)


def _strategy(key: str, value: Any, source: str) -> str | list[str] | None:
    """A name or a list of names, also written as ``[deform, flow]`` without quotes. None means the preset's choice."""
    if isinstance(value, str) and value[:1] in "[(":
        value = yaml.safe_load("[" + value.strip("[]() ") + "]")
    elif value == "None":
        value = None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(name, str) for name in value):
        return list(value)
    raise ValueError(f"{key} in {source} takes the name of a strategy or a list of names, got {value!r}")


def _words(value: Any) -> Any:
    """A list written without inner quotes, ``[res3, res5]``, as a list; any other value unchanged."""
    if not isinstance(value, str) or value[:1] not in ("[", "(") or not isinstance(_literal(value), str):
        return value
    try:
        words = yaml.safe_load("[" + value.strip("[]() ") + "]")
    except yaml.YAMLError:
        return value
    return words if all(isinstance(word, (str, int, float)) for word in words) else value


def _literal(value: Any) -> Any:
    """The value as yacs reads it: a Python literal if it is one, otherwise the string."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pass
    return value


def _near_keys(cfg: CfgNode, key: str, n: int = 3) -> list[str]:
    """Known keys with similar spelling, then those with the same end (``NECK.ALIGN`` for ``MODEL.NECK.ALIGN``)."""
    known = [name for name, _ in leaves(cfg)]
    alike = similar(key.upper(), known, limit=n, cutoff=0.8)
    leaf = key.upper().rsplit(".", 1)[-1]
    same_leaf = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
    same_leaf.sort(key=lambda name: -difflib.SequenceMatcher(None, name, key.upper()).ratio())
    return list(dict.fromkeys(alike + same_leaf))[:n]
