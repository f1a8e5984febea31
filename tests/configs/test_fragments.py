"""Fragments in ``configs/_base_``: kinds set disjoint keys, nothing is left over, and the README's example loads."""

import itertools
import re
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from fapn_d2.config.loading import BASE_KEY, leaves, load_config
from fapn_d2.reproduction.ledger import LEDGER_NAME

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
README = (CONFIGS / "README.md").read_text()
FRAGMENTS = sorted((CONFIGS / "_base_").rglob("*.yaml"))


def bases(path):
    named = yaml.safe_load(path.read_text()).get(BASE_KEY, [])
    return [(path.parent / base).resolve() for base in ([named] if isinstance(named, str) else named)]


def keys_by_kind(folder):
    """``{key: {kind: [file names]}}``; the version of the format is not a setting."""
    found = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.rglob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        for key, _ in leaves({k: v for k, v in content.items() if k not in (BASE_KEY, "VERSION")}):
            found[key][path.parent.name].append(path.name)
    return found


def shared_keys(folder):
    """A line for each key that several kinds set, with the files."""
    return [
        f"{key} is set by {', '.join(f'{kind}/{name}' for kind, names in kinds.items() for name in names)}"
        for key, kinds in sorted(keys_by_kind(folder).items())
        if len(kinds) > 1
    ]


def test_kinds_set_disjoint_keys():
    shared = shared_keys(CONFIGS / "_base_")
    assert not shared, "fragments of different kinds set the same keys:\n" + "\n".join(shared)


def test_the_check_names_key_and_files(tmp_path):
    for name, text in (
        ("neck/a.yaml", "MODEL: {FPN: {OUT_CHANNELS: 64, NORM: BN}}"),
        ("neck/b.yaml", "MODEL: {FPN: {OUT_CHANNELS: 32}}"),
        ("size/c.yaml", "MODEL: {FPN: {OUT_CHANNELS: 16}}\nVERSION: 2"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert shared_keys(tmp_path) == ["MODEL.FPN.OUT_CHANNELS is set by neck/a.yaml, neck/b.yaml, size/c.yaml"]


def test_kinds_are_those_of_the_readme_and_every_kind_is_there():
    kinds = {path.parent.name for path in FRAGMENTS}
    section = README.split("## How fragments combine")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)/` \|", section, re.M)) == kinds
    assert all(path.parent.parent == CONFIGS / "_base_" for path in FRAGMENTS)


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_fragments_build_on_their_own_kind_only(path):
    assert all(base.is_file() and base.parent == path.parent for base in bases(path))


def test_every_fragment_is_used():
    """By a shipped config, directly or through another fragment."""
    used, left = set(), [p for p in CONFIGS.glob("*/*.yaml") if p.name != LEDGER_NAME]
    while left:
        path = left.pop().resolve()
        if path not in used:
            used.add(path)
            left += bases(path)
    assert not [str(path.relative_to(CONFIGS)) for path in FRAGMENTS if path.resolve() not in used]


@pytest.mark.parametrize("name", ["sfnet/semantic_DF1_SFNet_cityscapes", "quickstart/panoptic_FaPN_shapes"])
def test_the_order_of_kinds_does_not_matter(name, tmp_path):
    """Reversed kinds; the fragments of one kind keep their order."""
    path = CONFIGS / f"{name}.yaml"
    content = yaml.safe_load(path.read_text())
    kinds = [list(group) for _, group in itertools.groupby(bases(path), key=lambda base: base.parent)]
    content[BASE_KEY] = [str(base) for kind in reversed(kinds) for base in kind]
    (tmp_path / "reversed.yaml").write_text(yaml.safe_dump(content))
    assert load_config(str(tmp_path / "reversed.yaml")).dump() == load_config(str(path)).dump()


def test_the_example_of_the_readme(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    shutil.copytree(CONFIGS / "_base_", tmp_path / "_base_")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mask_rcnn.yaml").write_text(example)
    cfg = load_config(str(tmp_path / "mine" / "mask_rcnn.yaml"))
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON) == ("GeneralizedRCNN", True)
    assert (cfg.MODEL.NECK.PRESET, cfg.MODEL.NECK.ALIGN) == ("fapn", ["flow", "deform", "deform"])
    assert (cfg.MODEL.WEIGHTS, cfg.INPUT.FORMAT) == ("torchvision://resnet50", "RGB")
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (8, 0.01, 90000)
