"""Fixtures for tests of the training loop."""

import logging

import pytest

from .toys import write_camvid


@pytest.fixture(autouse=True)
def _keep_loggers():
    """Set-up gives loggers handlers of its own; later tests listen to them by pytest's."""
    loggers = [logging.getLogger(name) for name in ("fapn_d2", "detectron2", "fvcore")]
    before = [(logger.propagate, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (propagate, level, handlers) in zip(loggers, before):
        logger.propagate, logger.handlers = propagate, handlers
        logger.setLevel(level)


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """A small CamVid under $DETECTRON2_DATASETS."""
    root = write_camvid(tmp_path / "datasets")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root
