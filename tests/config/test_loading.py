"""Bases, overrides and messages of load_config; fvcore's own merging is the reference."""

import os

import pytest
from detectron2.config import get_cfg

from fapn_d2.config.loading import load_config


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def detectron2_config(name: str) -> str:
    import detectron2

    return os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs", name)


@pytest.mark.parametrize(
    "name",
    ["COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"],
)
def test_reads_detectron2_files_as_detectron2_does(name):
    path = detectron2_config(name)
    if not os.path.exists(path):
        pytest.skip("this Detectron2 comes without the model zoo's files")
    expected = get_cfg()
    expected.merge_from_file(path)
    cfg = load_config(path)
    for key, value in _flat(expected):
        if not key.startswith("MODEL.ROI_MASK_HEAD"):  # PointRend's keys have defaults of their own there
            assert _flat_get(cfg, key) == value, key


def test_list_of_bases_later_wins_and_the_row_wins_over_all(write):
    write("base/a.yaml", "SOLVER: {MAX_ITER: 1, BASE_LR: 0.5, GAMMA: 0.25}")
    write("base/c.yaml", "SOLVER: {BASE_LR: 0.75}\nSEED: 3")
    write("base/b.yaml", "_BASE_: c.yaml\nSOLVER: {MAX_ITER: 2}")
    row = write("row.yaml", "_BASE_: [base/a.yaml, base/b.yaml]\nSEED: 4")
    cfg = load_config(row)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA, cfg.SEED) == (2, 0.75, 0.25, 4)
    reference = get_cfg()
    reference.merge_from_file(row)
    assert cfg.SOLVER.BASE_LR == reference.SOLVER.BASE_LR and cfg.SEED == reference.SEED
    assert load_config(row, ["SEED", "5"]).SEED == 5


def test_circle_of_bases(write):
    row = write("a.yaml", "_BASE_: b.yaml")
    write("b.yaml", "_BASE_: [a.yaml]")
    with pytest.raises(ValueError, match=r"circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_config(row)


def test_missing_files_are_named_with_near_ones(write):
    write("mask_rcnn_R_50_FaPN_1x.yaml", "")
    row = write("row.yaml", "_BASE_: mask_rcnn_R50_FaPN_1x.yaml")
    with pytest.raises(FileNotFoundError, match=r"R50_FaPN_1x.yaml \(a base of .*row.yaml\).*mask_rcnn_R_50_FaPN_1x"):
        load_config(row)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "MODEL: {NECK: {ALGIN: deform}}",
            r"unknown config key MODEL.NECK.ALGIN in .*row.yaml; nearest: MODEL.NECK.ALIGN",
        ),
        ("NECK: {ALIGN: deform}", r"unknown config key NECK.ALIGN .*nearest: MODEL.NECK.ALIGN"),
        ("MODEL: {NECK: deform}", r"MODEL.NECK in .*row.yaml is a section \(with PRESET"),
        ("SEED: {A: 1}", r"SEED takes a value and has no keys below it"),
        ("SOLVER: {MAX_ITER: many}", r"SOLVER.MAX_ITER in .*row.yaml must be of type int \(as 40000 is\), got 'many'"),
        ("DATASETS: {TRAIN: coco}", r"must be of type tuple .*; write \(\"coco\",\)"),
        ("MODEL: {NECK: {ALIGN: [1, 2]}}", r"MODEL.NECK.ALIGN in .* takes the name of a strategy or a list"),
        ("- a", r"contains a list, not sections"),
        ("a: [", r"row.yaml is not valid YAML"),
        ("VERSION: 1", r"config version 1"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(write, text, message):
    with pytest.raises(ValueError, match=message):
        load_config(write("row.yaml", text))


def test_unknown_key_of_a_base_names_the_base(write):
    write("base.yaml", "SOLVER: {MAX_ITERS: 1}")
    with pytest.raises(ValueError, match=r"SOLVER.MAX_ITERS in .*base.yaml; nearest: SOLVER.MAX_ITER"):
        load_config(write("row.yaml", "_BASE_: base.yaml"))


def test_a_strategy_becomes_a_list_and_a_name_again(write):
    row = write("row.yaml", "_BASE_: base.yaml\nMODEL: {NECK: {ALIGN: [deform, deform, flow]}}")
    write("base.yaml", "MODEL: {NECK: {ALIGN: deform}}")
    assert load_config().MODEL.NECK.ALIGN is None
    assert load_config(row).MODEL.NECK.ALIGN == ["deform", "deform", "flow"]
    for text in ("[flow, deform]", "['flow', 'deform']", "('flow', 'deform')"):
        assert load_config(row, ["MODEL.NECK.ALIGN", text]).MODEL.NECK.ALIGN == ["flow", "deform"]
    assert load_config(row, ["MODEL.NECK.ALIGN", "flow"]).MODEL.NECK.ALIGN == "flow"
    assert load_config(row, ["MODEL.NECK.ALIGN", "None"]).MODEL.NECK.ALIGN is None


def test_overrides(write):
    cfg = load_config("", ["SOLVER.BASE_LR", "1", "DATASETS.TEST", "('x',)", "OUTPUT_DIR", "here/x=1"])
    assert type(cfg.SOLVER.BASE_LR) is float and cfg.DATASETS.TEST == ("x",) and cfg.OUTPUT_DIR == "here/x=1"
    assert load_config("", ["--", "SEED", "5"]).SEED == 5
    with pytest.raises(ValueError, match="overrides are pairs KEY VALUE, but 'SEED' at the end"):
        load_config("", ["SOLVER.BASE_LR", "1", "SEED"])
    with pytest.raises(ValueError, match="--eval-only comes after KEY VALUE pairs"):
        load_config("", ["SEED", "1", "--eval-only"])
    with pytest.raises(
        ValueError, match=r"unknown config key SOLVER.BASELR in the command line; nearest: SOLVER.BASE_LR"
    ):
        load_config("", ["SOLVER.BASELR", "1"])


def _flat(node, prefix=""):
    for key, value in node.items():
        yield from _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def _flat_get(node, key):
    for part in key.split("."):
        node = node[part]
    return node
