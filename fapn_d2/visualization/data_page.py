"""The report on data sets as a page."""

from collections.abc import Sequence
from pathlib import Path

from ..data.inspection import DataReport
from .page import Page


def write_data_page(reports: Sequence[DataReport], path: str | Path) -> Path:
    """One section per data set: faults with examples, notes, classes and sizes of objects."""
    faults = sum(entry["count"] for report in reports for entry in report.faults.values())
    page = Page("Data sets", f"{sum(report.images for report in reports)} images, {faults} faults.")
    for report in reports:
        page.section(report.name, f"{report.images} images, {report.objects} objects; `{report.fingerprint}`")
        for heading, entries in (("Faults", report.faults), ("Notes", report.notes)):
            if entries:
                rows = [
                    [kind, str(entry["count"]), "; ".join(entry["examples"][:3])] for kind, entry in entries.items()
                ]
                page.heading(heading)
                page.table(["what", "number", "examples"], rows, left=True)
        for heading, counts, unit in (
            ("Classes of objects", report.object_classes, "objects"),
            ("Sizes of objects", report.object_sizes, "objects"),
            ("Classes of regions", report.region_classes, "pixels"),
        ):
            total = sum(counts.values())
            if total:
                page.heading(heading)
                rows = [[name, str(count), f"{100 * count / total:.2f}"] for name, count in counts.items()]
                page.table(["name", unit, "%"], rows, left=True)
    return page.write(path)
