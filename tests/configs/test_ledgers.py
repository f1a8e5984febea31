"""The shipped ledgers: every row against the papers' tables, every network against its printed size."""

import functools
import json

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from fapn_d2.reproduction.complexity import count_flops
from fapn_d2.reproduction.ledger import Network, iterate_rows, load_ledgers

LEDGERS = load_ledgers()
ROWS = {row.id: row for row in iterate_rows(LEDGERS)}
BUILT = [row_id for row_id, row in ROWS.items() if row.networks]


def build(network: Network):
    cfg = network.load()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def parameters(network: Network) -> int:
    return _parameters(network.config, json.dumps(network.overrides, sort_keys=True))


@functools.cache  # many rows share a network
def _parameters(config, overrides):
    return sum(p.numel() for p in build(Network(config, json.loads(overrides))).parameters())


@pytest.mark.parametrize("row_id", BUILT)
def test_networks_have_the_recorded_and_the_printed_size(row_id):
    row = ROWS[row_id]
    sizes = {name: parameters(network) for name, network in row.networks.items()}
    if "params" in row.measured:
        assert sizes == {"": row.measured["params"]}
    if "params_M" in row.paper:
        printed = row.measured.get("inference_params", sizes.get(""))
        assert printed / 1e6 == pytest.approx(row.paper["params_M"], abs=row.tolerance["params_M"])
        assert "params" in row.measured


COUNTED = [row_id for row_id in BUILT if "gflops" in ROWS[row_id].paper or "inference_params" in ROWS[row_id].measured]


@pytest.mark.parametrize("row_id", COUNTED)
def test_networks_have_the_recorded_and_the_printed_flops(row_id):
    row = ROWS[row_id]
    got = _complexity(
        row.network.config,
        json.dumps(row.network.overrides, sort_keys=True),
        row.flops_size or (1024, 1024),
        row.flops_convention,
    )
    if "inference_params" in row.measured:
        assert got.parameters == row.measured["inference_params"]
    if "gflops" in row.paper:
        assert got.total / 1e9 == pytest.approx(row.measured["gflops"], abs=0.005)
        assert got.total / 1e9 == pytest.approx(row.paper["gflops"], abs=row.tolerance["gflops"])


@functools.cache
def _complexity(config, overrides, size, convention):
    model = build(Network(config, json.loads(overrides))).eval()
    return count_flops(model, [{"image": torch.zeros(3, *size)}], convention=convention)


# facts of the official code and the paper, Table 1, in millions as printed and as counted
TABLE_1 = {
    "fapn.t1.fpn_r50": (28.6, 28_632_678),
    "fapn.t1.fpn_extra3x3_r50": (33.4, 33_353_318),
    "fapn.t1.fpn_r101": (47.6, 47_572_582),
    "fapn.t1.fpn_fam_r50": (31.7, 31_698_926),
    "fapn.t1.fpn_fam_se_r50": (33.1, 33_075_182),
    "fapn.t1.fapn_r50": (33.1, 33_075_182),
    "fapn.t1.fpn_fam_after_fsm_r50": (32.7, 32_681_966),
}


def test_table_1_of_fapn():
    for row_id, (printed, counted) in TABLE_1.items():
        assert parameters(ROWS[row_id].network) == counted
        assert counted / 1e6 == pytest.approx(printed, abs=0.05)
        assert ROWS[row_id].paper["params_M"] == printed and ROWS[row_id].tolerance["params_M"] == 0.05
    # the one row that no reading reproduces: its own number, and why
    deconvolution = ROWS["fapn.t1.fpn_deconv_fsm_r50"]
    assert parameters(deconvolution.network) == 32_564_582
    assert deconvolution.tolerance["params_M"] > 0.05 and "kernel" in deconvolution.note


def test_rows_of_one_network_are_one_config():
    """Table 4's PointRend rows are those of Tables 1 and 2."""
    for depth, neck in ((50, "fpn"), (50, "fapn"), (101, "fpn")):
        rows = [f"fapn.{t}_r{depth}" for t in (f"t1.{neck}", f"t2.{neck}")] + [f"fapn.t4.pointrend_r{depth}_{neck}"]
        assert len({(ROWS[r].network.config, str(ROWS[r].network.overrides)) for r in rows}) == 1


@pytest.fixture(scope="module")
def printed(reference):
    """{"own" or "quoted": {row: {metric: number}}} of the papers' tables."""
    return yaml.safe_load((reference / "papers" / "tables.yaml").read_text())


def test_every_row_of_the_papers_is_there_with_its_numbers(printed):
    assert {row_id: dict(row.paper) for row_id, row in ROWS.items()} == printed["own"]


def test_methods_of_other_papers_have_the_printed_numbers(printed):
    others = [other for ledger in LEDGERS for table in ledger.others.values() for other in table]
    assert len(others) == 24
    for other in others:
        assert any(dict(other.paper).items() <= metrics.items() for metrics in printed["quoted"].values()), other


def test_rows_that_start_from_random_weights_say_so():
    """Only those: the papers start from ImageNet weights everywhere."""
    weights = functools.cache(lambda config: Network(config).load().MODEL.WEIGHTS)
    marked = {row_id for row_id in BUILT if ROWS[row_id].start == "random weights"}
    assert marked == {
        row_id
        for row_id in BUILT
        if not ROWS[row_id].pretraining
        and "" in [n.overrides.get("MODEL.WEIGHTS", weights(n.config)) for n in ROWS[row_id].networks.values()]
    }
    assert len(marked) == 30 and all(row_id.startswith("sfnet.") for row_id in marked)
    mapillary = ROWS["sfnet.t6.sfnet_r18_mapillary"]
    assert mapillary.start.endswith("from random weights") and not mapillary.pretraining.load().MODEL.WEIGHTS
