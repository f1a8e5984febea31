"""Layouts of maps: torch's own copies, also where maps are large enough to be copied in pieces."""

import pytest
import torch

from fapn_d2.layers.memory_layout import laid_out, laid_out_like, layout_of

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("threads", [1, 2, 5], indirect=True)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 40, 37, 53), (1, 16, 1, 5000), (40, 1, 30, 40), (0, 8, 9, 9)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("threads")
def test_values_stay_and_layouts_are_as_asked(shape, layout):
    n, c, h, w = shape
    inside = torch.randn(n, h + 3, w + 2, c)[:, 1:-2, 1:-1].permute(0, 3, 1, 2)
    for t in (torch.randn(shape), torch.randn(n, h, w, c).permute(0, 3, 1, 2), inside, torch.ones(()).expand(shape)):
        out = laid_out(t, layout)
        assert torch.equal(out, t) and out.is_contiguous(memory_format=layout)
        like = torch.empty(shape).contiguous(memory_format=layout)
        assert layout_of(laid_out_like(t, like)) == layout_of(like)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_copied_where_the_layout_is_right(layout):
    t = torch.randn(2, 40, 37, 53).contiguous(memory_format=layout)
    assert laid_out(t, layout) is t
