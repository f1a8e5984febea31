"""Fixtures for tests of layers."""

import pytest
import torch

from .deform_conv.inputs import never_small


@pytest.fixture
def no_small(monkeypatch):
    """All maps of the deformable convolution are computed by this project's own formulation."""
    never_small(monkeypatch)


@pytest.fixture
def threads(request):
    """The number of threads that torch has on the CPU; for parametrization with ``indirect=True``."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
