"""--import: a user's file runs once, before the config is read, and in every process."""

import argparse
import sys

import pytest
from detectron2.data import DatasetCatalog

from fapn_d2.config import user_code
from fapn_d2.config.user_code import add_import_argument, import_files
from fapn_d2.engine.launching import launch

FILE = """
from detectron2.data import DatasetCatalog
import beside
DatasetCatalog.register(beside.NAME, lambda: [1, 2])
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(user_code, "imported", [])
    monkeypatch.setattr("fapn_d2.engine.launching.imported", user_code.imported)
    (tmp_path / "beside.py").write_text("NAME = 'from_a_file'")
    (tmp_path / "mine.py").write_text(FILE)
    yield tmp_path / "mine.py"
    if "from_a_file" in DatasetCatalog:
        DatasetCatalog.remove("from_a_file")
    sys.modules.pop("beside", None)


def test_a_file_runs_once(file):
    parser = argparse.ArgumentParser()
    add_import_argument(parser)
    assert parser.parse_args([]).imports == []
    args = parser.parse_args(["--import", str(file), "--import", str(file)])
    import_files(args.imports)
    import_files(args.imports)
    assert DatasetCatalog.get("from_a_file") == [1, 2] and user_code.imported == [str(file)]
    assert str(file.parent) not in sys.path


def test_messages(file):
    with pytest.raises(FileNotFoundError, match=r"--import nowhere.py: the file does not exist"):
        import_files(["nowhere.py"])
    (file.parent / "a.yaml").touch()
    with pytest.raises(ValueError, match=r"a.yaml: the file must be a Python file that ends in .py"):
        import_files([file.parent / "a.yaml"])
    DatasetCatalog.register("from_a_file", list)
    with pytest.raises(ValueError, match=r"--import .*mine.py: Dataset 'from_a_file' is already registered!"):
        import_files([file])


def has_it(folder: str) -> None:
    from detectron2.utils import comm

    open(f"{folder}/{comm.get_rank()}-{'from_a_file' in DatasetCatalog}", "w").close()


def test_every_process_runs_it(file, tmp_path):
    import_files([file])
    (tmp_path / "out").mkdir()
    launch(has_it, processes=2, use_cuda=False, args=(str(tmp_path / "out"),))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0-True", "1-True"]
