"""Reading a ledger: what a row becomes, and the error for each way to write it wrong."""

from types import SimpleNamespace

import pytest
import yaml

from fapn_d2.reproduction.ledger import Other, find_row, load_ledger, load_ledgers
from fapn_d2.reproduction.numbers import numbers_of

ROW = {"id": "toy.t1.a", "method": "A", "config": "net.yaml", "paper": {"mIoU": 70.5}}


def write(folder, *rows, **ledger):
    """A ledger of one table beside a config; returns its path."""
    folder.mkdir(exist_ok=True)
    (folder / "net.yaml").write_text("SOLVER: {MAX_ITER: 7}")
    content = {"paper": "toy", "title": "Toy", "tables": [{"name": "Table 1", "about": "toys", "rows": list(rows)}]}
    path = folder / "tables.yaml"
    path.write_text(yaml.safe_dump(content | ledger, sort_keys=False))
    return path


def test_a_row(tmp_path):
    other = {"id": "toy.t1.b", "method": "B", "pending": "no data", "paper": {}}
    overrides = {"SOLVER.BASE_LR": 0.5, "MODEL.NECK.ALIGN": ["deform", "nearest"]}
    row = ROW | {"overrides": overrides, "tolerance": {"params_M": 0.2}}
    ledger = load_ledger(write(tmp_path / "toy", row, other, tolerance={"params_M": 0.05, "gflops": 0.1}))
    assert [r.id for r in ledger.rows] == ["toy.t1.a", "toy.t1.b"]
    a, b = ledger.rows
    assert a.table == "Table 1" and a.paper == {"mIoU": 70.5}
    assert a.tolerance == {"params_M": 0.2, "gflops": 0.1}
    assert a.network.options() == ["SOLVER.BASE_LR", 0.5, "MODEL.NECK.ALIGN", ["deform", "nearest"]]
    cfg = a.network.load(["SOLVER.MAX_ITER", 9])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.MODEL.NECK.ALIGN) == (9, 0.5, ["deform", "nearest"])
    assert not b.networks
    with pytest.raises(ValueError, match=r"toy\.t1\.b is not built yet: no data"):
        _ = b.network


def test_a_row_of_several_networks(tmp_path):
    row = {k: v for k, v in ROW.items() if k != "config"}
    row["networks"] = {"coco": {"config": "net.yaml"}, "cityscapes": {"config": "net.yaml", "overrides": {"SEED": 3}}}
    (row,) = load_ledger(write(tmp_path / "toy", row)).rows
    assert row.networks["cityscapes"].load().SEED == 3
    with pytest.raises(ValueError, match="needs several networks: coco, cityscapes; name one of them"):
        _ = row.network


def test_a_row_with_a_pretraining(tmp_path):
    row = ROW | {"pretraining": {"config": "net.yaml", "overrides": {"SEED": 5}}}
    (row,) = load_ledger(write(tmp_path / "toy", row)).rows
    assert row.pretraining.load().SEED == 5 and row.network.load().SEED != 5


def test_headings_that_are_wrong_for_a_row(tmp_path):
    (row,) = load_ledger(write(tmp_path / "toy", ROW | {"read_as": {"mIoU": "SQ"}})).rows
    results = {"panoptic_seg": {"SQ": 71.5}, "sem_seg": {"mIoU": 40.0}}
    record = SimpleNamespace(results=results, network="")
    assert numbers_of(row, [record])["mIoU"].text == "70.5 → 71.50 (+1.00)"


def test_rows_inherit_from_the_table_and_the_ledger(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "b.yaml").write_text("")
    bare = {"id": "toy.t1.a", "method": "A", "paper": {"gflops": 1.0}}
    rows = [
        bare,
        bare | {"id": "toy.t1.b", "config": "b.yaml", "note": "own", "start": "", "overrides": {"SEED": 2, "X": 2}},
        bare | {"id": "toy.t1.c", "pending": "no data", "tolerance": {"gflops": 3}},
        bare | {"id": "toy.t1.d", "networks": {"x": {"config": "b.yaml", "overrides": {"SOLVER.MAX_ITER": 2}}}},
    ]
    table = {"name": "Table 1", "about": "toys", "rows": rows, "config": "net.yaml", "note": "of the table"}
    table |= {"overrides": {"SOLVER.MAX_ITER": 9, "SEED": 1}, "flops_size": [4, 8], "tolerance": {"gflops": 2}}
    outer = {"pending": "nothing is built", "start": "random weights", "flops_convention": "2macs"}
    tables = [table, {"name": "Table 2", "about": "none", "rows": [bare | {"id": "toy.t2.a"}]}]
    path = write(tmp_path / "toy", tables=tables, tolerance={"gflops": 1, "params_M": 1}, **outer)
    a, b, c, d, e = load_ledger(path).rows
    assert (a.network.config.name, b.network.config.name) == ("net.yaml", "b.yaml")
    assert a.network.options() == ["SOLVER.MAX_ITER", 9, "SEED", 1]
    assert b.network.options() == ["SEED", 2, "X", 2, "SOLVER.MAX_ITER", 9]  # its own first
    assert d.networks["x"].options() == ["SOLVER.MAX_ITER", 2, "SEED", 1]
    assert [row.note for row in (a, b, e)] == ["of the table", "own", ""]
    assert [row.start for row in (a, b, e)] == ["random weights", "", "random weights"]
    assert [row.pending for row in (a, b, c, d, e)] == ["", "", "no data", "", "nothing is built"]
    assert not c.networks and not e.networks
    assert a.tolerance == {"gflops": 2, "params_M": 1} and c.tolerance == {"gflops": 3, "params_M": 1}
    assert a.flops_size == (4, 8) and e.flops_size is None and a.flops_convention == "2macs"


def test_methods_of_other_papers(tmp_path):
    others = [{"method": "ESPNet", "paper": {"FPS": 113, "mIoU": 60.3}}]
    table = {"name": "Table 1", "about": "toys", "rows": [ROW]}
    ledger = load_ledger(write(tmp_path / "toy", tables=[table | {"others": others}]))
    assert ledger.others == {"Table 1": (Other("ESPNet", {"FPS": 113, "mIoU": 60.3}),)}
    assert [row.id for row in ledger.rows] == ["toy.t1.a"]  # nothing to reproduce
    wrong = table | {"others": [{"method": "X"}]}
    with pytest.raises(ValueError, match="table Table 1, others lacks paper"):
        load_ledger(write(tmp_path / "lacking", tables=[wrong]))
    wrong = table | {"others": [{"method": "X", "paper": {"FPS": "fast"}}]}
    with pytest.raises(ValueError, match="table Table 1, X: FPS must be a number, got 'fast'"):
        load_ledger(write(tmp_path / "text", tables=[wrong]))


def test_ledgers_and_ids(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tables\.yaml in the folders of"):
        load_ledgers(tmp_path)
    write(tmp_path / "toy", ROW, ROW | {"id": "toy.t1.longer"})
    ledgers = load_ledgers(tmp_path)
    assert find_row(ledgers, "toy.t1.longer").method == "A"
    with pytest.raises(ValueError, match=r"no row 'toy\.t1\.lnoger' in the ledgers; nearest: toy\.t1\.longer"):
        find_row(ledgers, "toy.t1.lnoger")
    with pytest.raises(ValueError, match="no row '---' in the ledgers; papers: toy"):
        find_row(ledgers, "---")


ERRORS = [
    (ROW | {"overide": {}}, "unknown field 'overide'; nearest: overrides; allowed: id, method, config,"),
    (ROW | {"config": "nett.yaml"}, "row toy.t1.a: there is no config nett.yaml; nearest: net.yaml"),
    (ROW | {"pending": "why"}, "must have one of config, networks and pending; it has config and pending"),
    ({k: v for k, v in ROW.items() if k != "config"}, "one of config, networks and pending; it has none"),
    ({k: v for k, v in ROW.items() if k != "paper"}, "row toy.t1.a lacks paper"),
    (ROW | {"id": "fapn.t1.a"}, "ids of this ledger start with 'toy' and a dot"),
    (ROW | {"paper": {"mIoU": "high"}}, "mIoU must be a number, got 'high'"),
    (ROW | {"overrides": ["KEY", 1]}, "overrides must be a dict, got ['KEY', 1]"),
    (ROW | {"paper": {"gflops": 1.0}}, "prints gflops; say for which image by flops_size: [height, width]"),
    (ROW | {"flops_size": [512]}, "flops_size is [height, width] in pixels, got [512]"),
    (ROW | {"flops_convention": "gmacs"}, "flops_convention 'gmacs' is not one of macs, 2macs, conv_macs, sfnet"),
    (ROW | {"measured": {"parameters": 1}}, "measured: unknown field 'parameters'"),
    (ROW | {"measured": {"runs": [{"seed": 1}]}}, "measured run lacks metrics"),
    ({"id": "toy.t1.a", "method": "A", "pending": "p", "paper": {}, "overrides": {}}, "has overrides but no config"),
    (
        {"id": "toy.t1.a", "method": "A", "pending": "p", "paper": {}, "pretraining": {}},
        "has pretraining but no config",
    ),
    (ROW | {"read_as": {"AP": "SQ"}}, "read_as maps numbers of paper to those that are scored, not AP: SQ"),
    (ROW | {"read_as": {"mIoU": "beauty"}}, "read_as maps numbers of paper to those that are scored, not mIoU: beauty"),
    (ROW | {"pretraining": {"config": "pre.yaml"}}, "row toy.t1.a, pretraining: there is no config pre.yaml"),
    (ROW | {"pretraining": {}}, "row toy.t1.a, pretraining lacks config"),
    ("toy.t1.a", "must be a mapping with id, method,"),
]


@pytest.mark.parametrize(("row", "message"), ERRORS)
def test_errors_name_row_and_field(tmp_path, row, message):
    with pytest.raises(ValueError) as error:
        load_ledger(write(tmp_path / "toy", row))
    assert message in str(error.value)
    assert "tables.yaml" in str(error.value)


def test_errors_of_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"the id toy\.t1\.a is there twice"):
        load_ledger(write(tmp_path / "twice", ROW, ROW))
    with pytest.raises(ValueError, match=r"tables\.yaml: unknown field 'table'; nearest: tables"):
        load_ledger(write(tmp_path / "field", ROW, table=[]))
    path = write(tmp_path / "syntax", ROW)
    path.write_text("paper: [")
    with pytest.raises(ValueError, match="is not valid YAML"):
        load_ledger(path)
