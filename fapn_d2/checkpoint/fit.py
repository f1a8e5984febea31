"""The comparison of a weight file with a network, and the messages about it."""

import functools
from collections.abc import Mapping, Sequence

from torch import nn

from ..messages import some

#: Buffers that training estimates again, so a file may lack them.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: Parameters that ImageNet files lack: the offsets of Detectron2's deformable blocks, which start at zero.
_ADDED_TO_RESNET = ("conv2_offset.weight", "conv2_offset.bias")
_SHOWN = 4
_few = functools.partial(some, limit=_SHOWN, sort=False)


class Fit:
    """The names and shapes of a network compared with those of a file.

    Args:
        model: the network to fill.
        weights: the tensors or arrays of the file, by name.
        skip: the prefixes of names that are not filled.

    Raises:
        ValueError: the network has no part with a prefix in ``skip``.
    """

    def __init__(self, model: nn.Module, weights: Mapping, skip: Sequence[str] = ()):
        self.names = list(model.state_dict())
        self._in_model = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        self._in_file = {name: tuple(value.shape) for name, value in weights.items()}
        self._skip = tuple(skip)
        for prefix in self._skip:
            if not any(_under(name, prefix) for name in self.names):
                parts = sorted({name.rsplit(".", 1)[0] for name in self.names if not name.startswith("backbone.")})
                raise ValueError(f"MODEL.WEIGHTS_SKIP names {prefix!r}, which the network lacks; it has {parts}")
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.wrong_shapes: list[tuple[str, tuple, tuple]] = []

    def skipped(self, name: str) -> bool:
        return any(_under(name, prefix) for prefix in self._skip)

    def judged(self, missing: list[str], unexpected: list[str], wrong_shapes: list[tuple[str, tuple, tuple]]) -> "Fit":
        """Store the report of loading.

        Args:
            missing: the names of the network that the file lacks.
            unexpected: the names of the file that the network lacks.
            wrong_shapes: the tensors of different shape, as (name, shape in the file, shape in the network).
        """
        self.unexpected = list(unexpected)
        self.wrong_shapes = [(name, tuple(in_file), tuple(in_model)) for name, in_file, in_model in wrong_shapes]
        # If names were matched by their ends, Detectron2 drops tensors of a wrong shape without reporting them.
        for name in missing:
            for other in unexpected:
                alike = name.endswith(f".{other}") and other in self._in_file
                if alike and self._in_file[other] != self._in_model[name]:
                    self.wrong_shapes.append((name, self._in_file[other], self._in_model[name]))
        wrong = {name for name, _, _ in self.wrong_shapes}
        self.missing = [name for name in missing if name not in wrong and not self.skipped(name)]
        return self

    @property
    def _bottom_up(self) -> str:
        """The prefix of the bottom-up network: a part of the pyramid, the backbone, or the whole model."""
        for prefix in ("backbone.bottom_up.", "bottom_up.", "backbone."):
            if any(name.startswith(prefix) for name in self.names):
                return prefix
        return ""

    def why_not_complete(self, path: str) -> str:
        """The reason why this file does not fill the network completely; "" if it does."""
        missing = [name for name in self.missing if not name.endswith("num_batches_tracked")]
        problems = [f"{len(missing)} weights are missing ({_few(missing)})"] if missing else []
        if self.wrong_shapes:
            problems.append(f"{len(self.wrong_shapes)} have another shape ({_few(self._shapes())})")
        return f"{path} does not fill the network: {'; '.join(problems)}" if problems else ""

    def why_not_a_start(self, path: str) -> str:
        """The reason why training cannot start from this file; "" if it can."""
        if self.wrong_shapes:
            parts = sorted({name.rsplit(".", 1)[0] for name, _, _ in self.wrong_shapes})
            problem = f"{len(self.wrong_shapes)} weights of {path} do not fit the network: {_few(self._shapes())}"
            if any(part.startswith(self._bottom_up) for part in parts):
                return f"{problem}. Choose weights of the bottom-up network that the config names"
            return f'{problem}. To tune it on other classes, initialise these parts: MODEL.WEIGHTS_SKIP "{parts}"'
        absent = set(self.missing)
        filled = [name for name in self.names if name not in absent and not self.skipped(name)]
        # Buffers may count as filled although they are not in the file.
        if all(name.endswith(("pixel_mean", "pixel_std", *_STATISTICS)) for name in filled):
            has = f"the network has {_few(self.names)}; the file {_few(list(self._in_file))}"
            return f"no weight in {path} has a name of the network: {has}"
        lost = [
            name
            for name in self.missing
            if name.startswith(self._bottom_up) and not name.endswith(_STATISTICS + _ADDED_TO_RESNET)
        ]
        if lost:
            return f"{path} leaves {len(lost)} weights of the bottom-up network random: {_few(lost)}"
        return ""

    def summary(self, path: str) -> str:
        """One line for the log."""
        others = len(self.missing) + sum(map(self.skipped, self.names))
        line = f"{len(self.names) - others} of {len(self.names)} tensors come from {path}"
        untouched = sorted({".".join(name.split(".")[:2]) for name in self.missing if not name.endswith(_STATISTICS)})
        if untouched:
            line += f"; these parts keep their initialisation: {', '.join(untouched)}"
        if self._skip:
            line += f"; left out by MODEL.WEIGHTS_SKIP: {', '.join(self._skip)}"
        if self.unexpected:
            line += f"; not used: {_few(self.unexpected)}"
        return line

    def _shapes(self) -> list[str]:
        return [f"{name} is {f} in the file and {m} in the network" for name, f, m in self.wrong_shapes]


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
