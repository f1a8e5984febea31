"""Cityscapes scores by the official scripts, through Detectron2's evaluators.

Three breakages outside this project are absorbed here, and only while these evaluators work:

- Detectron2's main branch, since December 2024, imports the scripts under the name they have inside Meta
  (``deeplearning.projects.cityscapesApi.cityscapesscripts``, issue 5436). The public package is offered under it.
- cityscapesscripts up to 2.3.0 calls ``numpy.in1d``, which numpy 2.4 no longer has; ``numpy.isin`` is its successor.
- Its scoring of instances writes ``matches.json`` into the current folder, which nothing reads, and fails at it since
  numpy 2.3 counts in numpy's integers. The file is not written.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator

import numpy as np
from detectron2 import evaluation as detectron2_evaluation

_INTERNAL = "deeplearning.projects.cityscapesApi"
_SCORING = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
_MODULES = (
    "cityscapesscripts",
    "cityscapesscripts.helpers",
    "cityscapesscripts.helpers.labels",
    "cityscapesscripts.evaluation",
    "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
    _SCORING,
)


@contextlib.contextmanager
def working_cityscapesscripts() -> Iterator[None]:
    """The official scripts, importable under both names and with today's numpy, within the block.

    Raises:
        ValueError: the package, or one that it needs, is not installed.
    """
    lacks_in1d = not hasattr(np, "in1d")
    if lacks_in1d:
        np.in1d = np.isin
    scoring = write = None
    parents = [_INTERNAL.rsplit(".", n)[0] for n in (2, 1, 0)]
    added = {name: types.ModuleType(name) for name in parents if name not in sys.modules}
    try:
        for name in _MODULES:
            added[f"{_INTERNAL}.{name}"] = importlib.import_module(name)
        sys.modules.update(added)
        scoring = sys.modules[_SCORING]
        write = scoring.writeDict2JSON
        scoring.writeDict2JSON = lambda content, path: None if path == "matches.json" else write(content, path)
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"scoring Cityscapes needs cityscapesscripts and {error.name}: install them") from error
    finally:
        if scoring is not None:
            scoring.writeDict2JSON = write
        for name in added:
            sys.modules.pop(name, None)
        if lacks_in1d:
            del np.in1d


class CityscapesSemSegEvaluator(detectron2_evaluation.CityscapesSemSegEvaluator):
    """IoU, iIoU and both over categories, as Detectron2's class of the same name."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        with working_cityscapesscripts():
            super().process(inputs, outputs)

    def evaluate(self) -> dict | None:
        with working_cityscapesscripts():
            return super().evaluate()


class CityscapesInstanceEvaluator(detectron2_evaluation.CityscapesInstanceEvaluator):
    """AP and AP50 of masks, as Detectron2's class of the same name."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        with working_cityscapesscripts():
            super().process(inputs, outputs)

    def evaluate(self) -> dict | None:
        with working_cityscapesscripts():
            return super().evaluate()
