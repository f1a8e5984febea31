"""From YAML files and KEY VALUE pairs to a config, with errors that name the key, the file and what was probably meant.

Detectron2 merges a file in one go and fails with "Non-existent config key". Here every key is set on its own, so that
the message can say in which of the files behind ``_BASE_`` it stands.
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

from .keys import STRATEGY_KEYS, add_fapn_config
from .yaml_reading import read_yaml

logger = logging.getLogger(__name__)

BASE_KEY = "_BASE_"
#: The folder of this project's configs.
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_STRATEGIES = {f"MODEL.NECK.{key}" for key in STRATEGY_KEYS}


def default_config() -> CfgNode:
    """Every key with its default: Detectron2's, PointRend's where it is installed, and this project's."""
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

    A file may name others under ``_BASE_`` (one path or a list, relative to the file): they are merged in their order,
    later ones win, and the file itself wins over all. Keys whose default is None take a value of any type, also after
    a base has given them one of another type (a strategy for all levels, then a list of strategies).

    Args:
        config_file: path of a YAML file, or "" for the defaults.
        opts: ``["SOLVER.MAX_ITER", "100", ...]``; values are read as Python literals where they are some.

    Raises:
        FileNotFoundError: the file, or one behind ``_BASE_``, is not there; names near ones.
        ValueError: unknown key (names the nearest), value of the wrong type, not YAML, ``_BASE_`` runs in a circle.
    """
    cfg = default_config()
    free = {key for key, value in leaves(cfg) if value is None}
    if config_file:
        for path, content in _with_bases(config_file):
            for key, value in leaves(content):
                _assign(cfg, key, value, source=path, free=free)
    for key, value in _pairs(list(opts)):
        _assign(cfg, key, value, source="the command line", free=free)
    return cfg


def _with_bases(path: str, stack: tuple[str, ...] = ()) -> list[tuple[str, dict]]:
    """(file, content) in the order of merging: bases first, depth first."""
    if os.path.realpath(path) in map(os.path.realpath, stack):
        raise ValueError(f"{BASE_KEY} runs in a circle: {' -> '.join((*stack, path))}")
    content = _read_yaml(path, needed_by=stack[-1] if stack else "")
    bases = content.pop(BASE_KEY, [])
    found = []
    for base in [bases] if isinstance(bases, str) else bases:
        base = os.path.join(os.path.dirname(path), os.path.expanduser(base))  # an absolute base replaces the folder
        found += _with_bases(os.path.normpath(base), (*stack, path))
    return [*found, (path, content)]


def _read_yaml(path: str, needed_by: str) -> dict:
    if not os.path.isfile(path):
        named = f" (a base of {needed_by})" if needed_by else ""
        near = _near_files(path)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise FileNotFoundError(f"config file {path}{named} does not exist{hint}")
    text = Path(path).read_text()
    try:
        content = read_yaml(text)
    except yaml.constructor.ConstructorError as error:
        raise ValueError(f"{path} holds a YAML tag that is not read, because it could run code: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not sections with keys")
    if content.get("VERSION", 2) != 2:
        raise ValueError(f"{path} is of config version {content['VERSION']}; only version 2 of Detectron2 is read")
    return content


def _near_files(path: str, n: int = 3) -> list[str]:
    """YAML files with a similar name: in the folder of ``path``, in ``configs`` here and of the checkout."""
    folders = {Path(path).parent, Path("configs"), CONFIGS}
    files = {p.resolve() for folder in folders if folder.is_dir() for p in folder.rglob("*.yaml")}
    wanted = Path(path).name
    ranked = sorted(files, key=lambda p: -difflib.SequenceMatcher(None, p.name, wanted).ratio())
    near = [p for p in ranked if difflib.SequenceMatcher(None, p.name, wanted).ratio() > 0.6]
    return [os.path.relpath(p) for p in near[:n]]


def leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full name, value) of every key below ``node``; sections without keys have none."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, dict):
            yield f"{prefix}{key}", value


def _pairs(opts: list) -> list[tuple[str, Any]]:
    opts = opts[1:] if opts[:1] == ["--"] else opts
    for option in opts:
        if isinstance(option, str) and option.startswith("--"):
            raise ValueError(f"the option {option} stands behind KEY VALUE pairs; options go before them")
    if len(opts) % 2:
        raise ValueError(f"overrides are pairs KEY VALUE, but {opts[-1]!r} at the end of {opts} has no partner")
    return list(zip(opts[0::2], opts[1::2]))


def _assign(cfg: CfgNode, key: str, value: Any, *, source: str, free: set[str]) -> None:
    """Set one key, or say what is wrong with it."""
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
        parent[part] = None  # yacs refuses to change the type of a value, but not of None
    elif isinstance(node, float) and type(_literal(value)) is int:
        value = float(_literal(value))
    try:
        cfg.merge_from_list([key, value])
    except ValueError as error:
        value = _literal(value)
        hint = f'; write ("{value}",)' if isinstance(node, (tuple, list)) and isinstance(value, str) else ""
        raise ValueError(
            f"{key} in {source} must be of type {type(node).__name__} (as {node!r} is), "
            f"got {value!r} of type {type(value).__name__}{hint}"
        ) from error


def _strategy(key: str, value: Any, source: str) -> str | list[str] | None:
    """One name, or a list of names, also as ``[deform, flow]`` without inner quotes; None is the preset's choice."""
    if isinstance(value, str) and value[:1] in "[(":
        value = yaml.safe_load("[" + value.strip("[]() ") + "]")
    elif value == "None":
        value = None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(name, str) for name in value):
        return list(value)
    raise ValueError(f"{key} in {source} takes the name of a strategy or a list of names, got {value!r}")


def _literal(value: Any) -> Any:
    """How yacs reads a value: as a Python literal where it is one, else as the string it is."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pass
    return value


def _near_keys(cfg: CfgNode, key: str, n: int = 3) -> list[str]:
    """Known keys that are written alike, then those that end alike (``NECK.ALIGN`` for ``MODEL.NECK.ALIGN``)."""
    known = [name for name, _ in leaves(cfg)]
    alike = difflib.get_close_matches(key.upper(), known, n, cutoff=0.8)
    leaf = key.upper().rsplit(".", 1)[-1]
    same_leaf = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
    same_leaf.sort(key=lambda name: -difflib.SequenceMatcher(None, name, key.upper()).ratio())
    return list(dict.fromkeys(alike + same_leaf))[:n]
