"""What README says of the code: the map is complete, and every file and folder that it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_map_names_every_package():
    block = README.split("## Map of the code")[1].split("```")[1]
    files = [line for line in block.splitlines() if re.match(r"  \w+\.py", line)]
    named = set(re.findall(r"^  (\w+)/ ", block, re.M)) | set(re.findall(r"(\w+)\.py", " ".join(files)))
    found = {p.stem for p in (ROOT / "fapn_d2").iterdir() if not p.name.startswith("__")} - {"version"}
    assert named == found
    assert {p.name for p in ROOT.iterdir() if p.is_dir()} >= set(re.findall(r"^(\w+)/ ", block, re.M))


def test_the_map_stands_in_the_order_of_imports():
    from .test_imports import ROWS

    block = README.split("## Map of the code")[1].split("```")[1]
    rows = {name: number for number, row in enumerate(ROWS) for name in row}
    order = [rows[name] for name in re.findall(r"^  (\w+)/ ", block, re.M)]
    assert order == sorted(order, reverse=True)


def test_files_of_the_papers_exist():
    """A file name without a folder is in the folder of the one before it."""
    rows = [line for line in README.splitlines() if line.startswith("| ") and line.count("|") == 5]
    assert len(rows) > 30
    missing = []
    for row in rows[1:]:
        folder = ROOT / "fapn_d2"
        for name in re.findall(r"`([\w/.]+(?:\.py|/))`", row.split("|")[4]):
            path = ROOT / "fapn_d2" / name if "/" in name else folder / name
            folder = path.parent
            missing += [] if path.exists() else [f"{name} in: {row}"]
    assert not missing, "\n".join(missing)


def test_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("configs/**/*.md"), *ROOT.glob("datasets/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"
