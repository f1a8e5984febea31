"""Context heads: values against plain forms, sizes, a batch of one image."""

import pytest
import torch
from torch.nn import functional as F

from fapn_d2.layers.aspp import ASPP, DenseASPP
from fapn_d2.layers.flow_align import FlowAlign
from fapn_d2.layers.non_local import NonLocalBlock, NonLocalContext
from fapn_d2.layers.pyramid_pooling import PooledBranch, PyramidPooling, average_cells

CONTEXTS = {
    "ppm": lambda norm: PyramidPooling(12, 64, norm=norm),
    "aspp": lambda norm: ASPP(12, 64, channels=64, dilations=(2, 3), norm=norm),
    "dense_aspp": lambda norm: DenseASPP(12, 64, reduced=64, channels=64, growth=64, dilations=(1, 2), norm=norm),
    "non_local": lambda norm: NonLocalContext(12, 64, channels=64, key_channels=8, hidden=64, norm=norm),
}


@pytest.mark.parametrize("norm", ["", "BN", "GN", "SyncBN"])
@pytest.mark.parametrize("name", CONTEXTS)
def test_one_image_in_training(name, norm):
    """Also where a branch has one value a channel, which batch normalisation refuses."""
    context = CONTEXTS[name](norm).train()
    x = torch.randn(1, 12, 5, 8, requires_grad=True)
    y = context(x)
    assert y.shape == (1, 64, 5, 8)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in context.parameters())
    biased = [m for m in context.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
    assert bool(biased) == (norm == "" or name == "non_local")


@pytest.mark.parametrize("align_corners", [True, False])
def test_pyramid_pooling_against_its_definition(align_corners):
    x = torch.randn(2, 6, 7, 10, dtype=torch.float64)
    ppm = PyramidPooling(6, 4, bins=(1, 3), dropout=0.0, align_corners=align_corners).double().eval()
    for module in ppm.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    pooled = []
    for branch, bins in zip(ppm.branches, (1, 3)):
        cells = x.new_zeros(2, 6, bins, bins)
        for i in range(bins):
            for j in range(bins):
                rows = slice(i * 7 // bins, -(-(i + 1) * 7 // bins))
                columns = slice(j * 10 // bins, -(-(j + 1) * 10 // bins))
                cells[..., i, j] = x[..., rows, columns].mean(dim=(2, 3))
        y = branch.norm(torch.einsum("nchw,dc->ndhw", cells, branch.conv.weight[..., 0, 0]))
        pooled.append(F.interpolate(y, (7, 10), mode="bilinear", align_corners=align_corners))
    joined = torch.cat([*pooled, x], dim=1)
    expected = ppm.bottleneck.norm(torch.einsum("nchw,dc->ndhw", joined, ppm.bottleneck.weight[..., 0, 0])).relu()
    torch.testing.assert_close(ppm(x), expected)


@pytest.mark.parametrize("size", [(7, 10), (3, 4), (1, 1), (12, 12)])
def test_average_cells_is_adaptive_pooling(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for bins in (1, 2, 3, 6):
        torch.testing.assert_close(average_cells(x, bins), F.adaptive_avg_pool2d(x, bins))


def test_exported_with_free_sizes():
    """Pyramid pooling and flow alignment, also where two sizes are equal that were not when it was exported."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.context, self.align = PyramidPooling(6, 4), FlowAlign(4)

        def forward(self, fine, c5):
            return self.align(fine, self.context(c5))

    network = Network().eval()
    h, w, height, width = (torch.export.Dim(name, min=2, max=99) for name in ("h", "w", "H", "W"))
    example = torch.randn(1, 4, 8, 12), torch.randn(1, 6, 4, 7)
    exported = torch.export.export(
        network, example, dynamic_shapes=({2: height, 3: width}, {2: h, 3: w}), strict=False
    ).module()
    for fine, coarse in (((9, 11), (4, 7)), ((6, 6), (6, 6)), ((3, 30), (3, 2))):
        inputs = torch.randn(1, 4, *fine), torch.randn(1, 6, *coarse)
        torch.testing.assert_close(exported(*inputs), network(*inputs))


def test_single_value_is_normalised_by_the_running_statistics():
    branch = PooledBranch(3, 4, bins=1).train()
    branch.norm.running_mean.fill_(0.5)
    x = torch.randn(1, 3, 4, 4)
    expected = (branch.conv(x.mean(dim=(2, 3), keepdim=True)) - 0.5) / (1 + branch.norm.eps) ** 0.5
    torch.testing.assert_close(branch(x), expected.expand(1, 4, 4, 4))
    branch(torch.randn(2, 3, 4, 4))
    assert branch.norm.num_batches_tracked == 1  # two images have a variance


def test_dropout_is_of_whole_channels_and_in_training_only():
    ppm = PyramidPooling(12, 32, dropout=0.5)
    x = torch.randn(2, 12, 5, 8)
    channels = ppm.train()(x).flatten(2).abs().sum(-1)
    assert (channels == 0).float().mean() == pytest.approx(0.5, abs=0.2)
    assert (ppm.eval()(x).flatten(2).abs().sum(-1) > 0).float().mean() > 0.9


def test_aspp_reaches_as_far_as_its_dilations():
    aspp = ASPP(2, 4, channels=4, dilations=(2, 5), norm="", dropout=0.0).double()
    x = torch.randn(1, 2, 17, 17, dtype=torch.float64, requires_grad=True)
    assert [b.dilation for b in aspp.branches[:-1]] == [(1, 1), (2, 2), (5, 5)]
    for branch, reach in zip(aspp.branches[:-1], (0, 2, 5)):
        (grad,) = torch.autograd.grad(branch(x)[0, :, 8, 8].square().sum(), x)
        rows = grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
        assert set(rows.tolist()) <= {8 - reach, 8, 8 + reach}
    assert aspp.bottleneck.in_channels == 4 * 4 + 2


def test_dense_aspp_sees_all_before_it():
    context = DenseASPP(12, 64, reduced=8, channels=16, growth=4, dilations=(1, 2, 3), norm="")
    assert [block[0].in_channels for block in context.blocks] == [8, 12, 16]
    assert context.bottleneck.in_channels == 20


def test_non_local_block_is_softmax_attention():
    block = NonLocalBlock(6, key_channels=4).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(block(x), x)  # starts as the identity
    with torch.no_grad():
        block.gamma.fill_(0.7)
    query, key, value = (f(x).flatten(2) for f in (block.query, block.key, block.value))
    weights = (torch.einsum("ncp,ncq->npq", query, key) / 2).softmax(dim=-1)
    expected = x + 0.7 * torch.einsum("npq,ncq->ncp", weights, value).view_as(x)
    torch.testing.assert_close(block(x), expected)
