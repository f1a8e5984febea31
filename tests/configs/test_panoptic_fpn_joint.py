"""Panoptic FPN's joint networks (Tables 2 to 4): the printed numbers among each other, recipes, rows of one run."""

import json

import pytest

from fapn_d2.config.hashing import training_hash
from fapn_d2.reproduction.ledger import CONFIGS, find_row, load_ledger

LEDGER = load_ledger(CONFIGS / "panoptic_fpn" / "tables.yaml")
TABLE_3 = [row for row in LEDGER.rows if row.id.split(".")[1] in ("t3a", "t3b", "t3c", "t3d", "t4a", "t4b")]


def row(name):
    return find_row([LEDGER], f"panoptic_fpn.{name}")


def test_every_row_is_built():
    assert len(LEDGER.rows) == 50 and all(row.networks for row in LEDGER.rows)


@pytest.mark.parametrize("row_id", [row.id for row in TABLE_3])
def test_printed_pq_is_the_mean_over_things_and_stuff(row_id):
    printed = find_row([LEDGER], row_id).paper
    city = "cityscapes" in row_id or "t4b" in row_id
    things, stuff = (8, 11) if city else (80, 53)
    mean = (things * printed["PQ_th"] + stuff * printed["PQ_st"]) / (things + stuff)
    # Numbers are rounded. Medians of five trials, one per metric, need not fit each other.
    assert printed["PQ"] == pytest.approx(mean, abs=0.3 if city else 0.1)


def test_recipes():
    coco, city = row("t3a.coco_r50_fpn").network.load(), row("t3a.cityscapes_r50_fpn").network.load()
    for cfg, weights in ((coco, (1.0, 0.5)), (city, (0.5, 1.0))):
        assert weights == (cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT, cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT)
        assert not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and cfg.MODEL.RESNETS.NORM == "FrozenBN"
    assert (coco.SOLVER.IMS_PER_BATCH, coco.SOLVER.BASE_LR, coco.SOLVER.MAX_ITER) == (16, 0.02, 90000)
    assert (city.SOLVER.IMS_PER_BATCH, city.SOLVER.BASE_LR, city.SOLVER.MAX_ITER) == (32, 0.01, 65000)
    assert tuple(city.INPUT.CROP.SIZE) == (512, 1024) and not city.INPUT.COLOR_AUG_SSD
    assert city.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 1.0 and city.INPUT.MASK_FORMAT == "bitmask"
    assert city.MODEL.BACKBONE.FREEZE_AT == 0 and coco.MODEL.BACKBONE.FREEZE_AT == 2
    combine = city.MODEL.PANOPTIC_FPN.COMBINE
    assert (2048, list(range(11, 19))) == (combine.STUFF_AREA_LIMIT, combine.DROPPED_CLASSES)
    turns = row("t3c.coco_alternate").network.load()
    assert turns.MODEL.PANOPTIC_FPN.ALTERNATE and turns.SOLVER.MAX_ITER == 180000
    assert tuple(turns.SOLVER.STEPS) == (120000, 160000)
    alone = row("t2a.lambda_s_0_0").network.load()
    assert alone.DATASETS.TRAIN == ("coco_2017_train",) and alone.DATALOADER.FILTER_EMPTY_ANNOTATIONS


@pytest.mark.parametrize(
    "names",
    [
        ("t2a.lambda_s_0_5", "t3a.coco_r50_fpn", "t3c.coco_combine", "t3d.coco_original"),
        ("t2d.lambda_i_0_5", "t3a.cityscapes_r50_fpn", "t3c.cityscapes_combine", "t3d.cityscapes_original"),
        ("t2a.lambda_s_1_0", "t2c.lambda_i_1_0"),
        ("t2b.lambda_s_1_0", "t2d.lambda_i_1_0"),
        ("t3b.coco_r101_fpn", "t4a.panoptic_fpn_r101"),
        ("t3b.cityscapes_r101_fpn", "t4b.panoptic_fpn_r101"),
    ],
)
def test_rows_of_one_run_share_it(names):
    assert len({training_hash(row(name).network.load()) for name in names}) == 1


def test_rows_of_two_networks_share_their_halves():
    for data, instances, semantic in (
        ("coco", "t2a.lambda_s_0_0", "t2c.lambda_i_0_0"),
        ("cityscapes", "t2b.lambda_s_0_0", "t2d.lambda_i_0_0"),
    ):
        both = row(f"t3a.{data}_r50_fpn_x2")
        assert both.merged and both.networks["instances"] == row(instances).network
        assert both.networks == row(semantic).networks == row(f"t3b.{data}_r50_fpn_x2").networks
        assert both.networks["semantic"] == row("t1c.width128").networks[data]
        loaded = [network.load() for network in both.networks.values()]
        for key in ("FORMAT", "MIN_SIZE_TEST", "MAX_SIZE_TEST"):
            assert loaded[0].INPUT[key] == loaded[1].INPUT[key]
        assert {cfg.MODEL.BACKBONE.FREEZE_AT for cfg in loaded} == {2 if data == "coco" else 0}


def test_the_table_of_the_sweep_is_that_of_its_record():
    folder = CONFIGS / "panoptic_fpn"
    text = (folder / "README.md").read_text()
    for run in json.loads((folder / "shapes_lambda_s.json").read_text())["runs"]:
        found = run["results"]
        line = next(line for line in text.splitlines() if line.startswith(f"| {run['lambda_s']} | "))
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        places = (("segm", "AP"), ("sem_seg", "mIoU"), *(("panoptic_seg", key) for key in ("PQ", "PQ_th", "PQ_st")))
        for cell, (task, name) in zip(cells, places):
            assert not cell or cell == f"{found[task][name]:.1f}"
        assert all(cells) == (run["lambda_s"] > 0)
