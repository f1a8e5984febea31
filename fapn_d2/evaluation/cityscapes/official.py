"""The official Cityscapes scripts, callable with current numpy and from several processes.

cityscapesscripts up to 2.3.0 calls ``numpy.in1d``, which numpy 2.4 no longer has. While a script runs, and only then,
its successor ``numpy.isin`` is available under the old name. The instance script also writes a ``matches.json`` into
the current folder, which fails on the integers of current numpy, and caches ground truth; we call only those parts of
it that do neither. On errors the scripts end the process (``sys.exit``); the functions here raise an error instead.
"""

import contextlib
import copy
import functools
import importlib
import io
import os
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np


@functools.cache
def load(module: str) -> ModuleType:
    """A module of the package cityscapesscripts, by its name in there ("helpers.labels").

    Raises:
        ValueError: the package, or one that it imports, is not installed.
    """
    try:
        return importlib.import_module(f"cityscapesscripts.{module}")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"scoring Cityscapes needs its official scripts, but {error.name} is not installed: "
            "pip install cityscapesscripts pyquaternion"
        ) from error


@contextlib.contextmanager
def todays_numpy() -> Iterator[None]:
    """Within the block ``numpy.in1d`` exists; see the module's docstring."""
    if hasattr(np, "in1d"):
        yield
        return
    np.in1d = np.isin
    try:
        yield
    finally:
        del np.in1d


def semantic_scores(pairs: list[tuple[str, str]]) -> dict:
    """The result of ``evalPixelLevelSemanticLabeling`` for (prediction, ``*_gtFine_labelIds.png``) files.

    Args:
        pairs: predictions are PNGs of label ids; ``*_gtFine_instanceIds.png`` lies beside each ground truth.

    Returns:
        The script's result: "averageScoreClasses", "classScores", "averageScoreInstClasses", ... as fractions.

    Raises:
        ValueError: the script refused to score; the message holds what it printed.
    """
    script = load("evaluation.evalPixelLevelSemanticLabeling")
    args = copy.copy(script.args)
    args.JSONOutput, args.quiet, args.colorized, args.bold, args.nocol = False, True, False, "", ""
    predictions, truths = (list(files) for files in zip(*pairs))
    with _refusal_as_error(), todays_numpy():
        return script.evaluateImgLists(predictions, truths, args)


def instance_matches(pairs: list[tuple[str, str]]) -> dict:
    """First half of ``evalInstanceLevelSemanticLabeling``: which objects overlap, image by image.

    Args:
        pairs: (prediction ``.txt`` with lines "mask.png labelId confidence", ``*_gtFine_instanceIds.png``).

    Returns:
        The argument of :func:`instance_scores`. Results of several calls (of several processes) can be merged.

    Raises:
        ValueError: the script refused to score; the message holds what it printed.
    """
    if not pairs:
        return {}
    script, args = _instance_script()
    # every prediction refers to masks below its own folder
    args.predictionPath = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p, _ in pairs])
    predictions, truths = (list(files) for files in zip(*pairs))
    with _refusal_as_error(), todays_numpy():
        return script.matchGtWithPreds(predictions, truths, script.instances2dict(truths, False), args)


def instance_scores(matches: dict) -> dict:
    """Second half: ``{"allAp", "allAp50%", "classes": {name: {"ap", "ap50%"}}}`` as fractions, NaN where undefined."""
    script, args = _instance_script()
    with np.errstate(invalid="ignore"), _without_empty_mean_warnings():
        return script.computeAverages(script.evaluateMatches(matches, args), args)


def _instance_script() -> tuple[ModuleType, object]:
    script = load("evaluation.evalInstanceLevelSemanticLabeling")
    args = copy.copy(script.args)
    args.JSONOutput, args.quiet, args.colorized = False, True, False
    script.setInstanceLabels(args)
    return script, args


@contextlib.contextmanager
def _refusal_as_error() -> Iterator[None]:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    except SystemExit as error:
        said = printed.getvalue().strip().removeprefix("ERROR: ")
        raise ValueError(f"cityscapesscripts refuses to score: {said}") from error


@contextlib.contextmanager
def _without_empty_mean_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
        yield
