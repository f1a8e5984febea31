"""Faults of an archive, and the report that collects them."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """A fault of an archive.

    Attributes:
        what: the fault in one sentence without a full stop; the same text for every place.
        fix: the way to fix it.
        where: the place; "": the whole archive.
        remark: whether the server accepts it and the user may have intended it.
    """

    what: str
    fix: str = ""
    where: str = ""
    remark: bool = False


@dataclass
class Group:
    """The same fault in several places."""

    fault: Fault
    count: int = 0
    places: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The text of the fault: what it is, the first three places, and the way to fix it."""
        lines = [self.fault.what + (f" ({self.count} times)" if self.count > 1 else "")]
        if places := [place for place in self.places if place]:
            lines.append(f"   where: {'; '.join(places)}{'; ...' if self.count > len(places) else ''}")
        if self.fault.fix:
            lines.append(f"   fix:   {self.fault.fix}")
        return "\n".join(lines)


class Report:
    """All faults of an archive, grouped by kind in the order in which they were found."""

    def __init__(self):
        self._groups: dict[tuple, Group] = {}
        #: Sentences about the archive that are not faults.
        self.facts: list[str] = []

    def add(self, faults: Iterable[Fault]) -> None:
        """Count faults."""
        for fault in faults:
            group = self._groups.setdefault((fault.what, fault.fix, fault.remark), Group(fault))
            group.count += 1
            if len(group.places) < 3:
                group.places.append(fault.where)

    @property
    def problems(self) -> list[Group]:
        """The faults for which the server refuses the archive, or scores something else than the predictions."""
        return [group for group in self._groups.values() if not group.fault.remark]

    @property
    def remarks(self) -> list[Group]:
        """The faults that the server accepts and the user may have intended."""
        return [group for group in self._groups.values() if group.fault.remark]

    @property
    def ready(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def text(self) -> str:
        """Facts, remarks, the numbered problems, and the verdict in the last line."""
        lines = [*self.facts, *(f"remark: {group.text()}" for group in self.remarks)]
        lines += [f"{number}. {group.text()}" for number, group in enumerate(self.problems, start=1)]
        count = len(self.problems)
        lines.append("ready for the server" if self.ready else f"not ready: {count} problem{'s' if count > 1 else ''}")
        return "\n".join(lines)
