"""Windows, scales and mirror images against slow loops in numpy; what they cost in memory; errors."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from fapn_d2.inference import semantic as semantic_inference
from fapn_d2.inference.semantic import SemanticInference, resize_image
from fapn_d2.inference.views import Views, Windows

MEAN = (10.0, 20.0, 30.0)
CLASSES = 4


class Toy(nn.Module):
    """Scores of a position from its colour and, with ``context``, from where it is and from all that can be seen.

    Whole numbers where the image holds such, so that sums are exact.
    """

    def __init__(self, *, context: bool = True):
        super().__init__()
        generator = np.random.default_rng(1)
        self.colors = nn.Parameter(torch.from_numpy(generator.integers(-3, 4, (CLASSES, 3)).astype(np.float32)))
        self.mean, self.place = (generator.integers(-3, 4, (2, CLASSES)) * context).astype(np.float32)
        self.batches: list[list[tuple[int, int]]] = []
        self.alive: weakref.WeakSet = weakref.WeakSet()
        self.most_alive = 0

    def forward(self, batch):
        self.batches.append([tuple(x["image"].shape[-2:]) for x in batch])
        outputs = []
        for x in batch:
            image = x["image"].to(self.colors.dtype)
            scores = torch.einsum("kc,chw->khw", self.colors, image)
            scores = scores + torch.tensor(self.mean).view(-1, 1, 1) * image.mean()
            scores = scores + torch.tensor(self.place).view(-1, 1, 1) * torch.arange(image.shape[-1])
            scores = F.interpolate(scores[None], (x["height"], x["width"]), mode="bilinear")[0]
            outputs.append({"sem_seg": scores})
            self.alive.add(scores)
        self.most_alive = max(self.most_alive, len(self.alive))
        return outputs

    def slow(self, image):
        """(K, h, w) of a (3, h, w) image in numpy."""
        scores = np.tensordot(self.colors.detach().double().numpy(), image, 1)
        scores += self.mean[:, None, None] * image.mean()
        return scores + self.place[:, None, None] * np.arange(image.shape[2])


def slow_resize(scores, size):
    """Bilinear, half-pixel centres, positions outside take the border's."""
    k, h, w = scores.shape
    out = np.zeros((k, *size))
    for y in range(size[0]):
        for x in range(size[1]):
            fy = min(max((y + 0.5) * h / size[0] - 0.5, 0), h - 1)
            fx = min(max((x + 0.5) * w / size[1] - 0.5, 0), w - 1)
            for row, wy in ((int(fy), 1 - fy % 1), (min(int(fy) + 1, h - 1), fy % 1)):
                for column, wx in ((int(fx), 1 - fx % 1), (min(int(fx) + 1, w - 1), fx % 1)):
                    out[:, y, x] += wy * wx * scores[:, row, column]
    return out


def slow_image(image, size):
    channels = [Image.fromarray(c.astype(np.float32)).resize(size[::-1], Image.BILINEAR) for c in image]
    return np.stack([np.asarray(c, np.float64) for c in channels])


def slow(toy, image, views, size):
    """The mean over all views, window by window and sum by sum."""
    squash = (lambda s: np.exp(s) / np.exp(s).sum(0)) if views.average == "probabilities" else (lambda s: s)
    results = []
    for scale in views.scales:
        view = slow_image(image, (round(image.shape[1] * scale), round(image.shape[2] * scale)))
        for mirrored in (False, True) if views.flip else (False,):
            seen = view[:, :, ::-1] if mirrored else view
            if views.windows is None:
                scores = squash(slow_resize(toy.slow(seen), size))
            else:
                scores = slow_resize(slow_windows(toy, seen, views.windows, scale, squash), size)
            results.append(scores[:, :, ::-1] if mirrored else scores)
    return np.mean(results, axis=0)


def slow_windows(toy, view, windows, scale, squash):
    _, h, w = view.shape
    grown = max(scale, 1) if windows.grows else 1
    ch, cw = (round(side * grown) for side in windows.size)
    padded = np.tile(np.array(MEAN)[:, None, None], (1, max(h, ch), max(w, cw)))
    padded[:, :h, :w] = view
    total, count = np.zeros((CLASSES, *padded.shape[1:])), np.zeros(padded.shape[1:])
    for y in slow_starts(padded.shape[1], ch, round(ch * windows.stride)):
        for x in slow_starts(padded.shape[2], cw, round(cw * windows.stride)):
            total[:, y : y + ch, x : x + cw] += squash(toy.slow(padded[:, y : y + ch, x : x + cw]))
            count[y : y + ch, x : x + cw] += 1
    assert count.min() >= 1
    return (total / count)[:, :h, :w]


def slow_starts(length, window, step):
    """As the official code counts: ceil((length - window) / step) + 1 windows, those beyond the end moved back."""
    number = int(np.ceil((length - window) / step)) + 1
    return [min(n * step + window, length) - window for n in range(number)]


def infer(toy, image, views, **size):
    (output,) = SemanticInference(toy, views=views, pixel_mean=MEAN)([{"image": image, **size}])
    assert set(output) == {"sem_seg"}
    return output["sem_seg"]


def picture(*size, dtype=torch.float32):
    return torch.randint(0, 256, (3, *size)).to(dtype)


WINDOWS = Windows((13, 16), 0.667)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize(
    "views",
    [
        {"windows": WINDOWS},
        {"flip": True},
        {"scales": (0.5, 1.0, 1.7)},
        {"windows": WINDOWS, "flip": True, "batch": 3},
        {"windows": Windows((13, 16), 0.5, grows=True), "scales": (0.75, 1.5), "flip": True},
        {"windows": Windows((60, 16), 1.0), "scales": (1.0, 1.5)},
        {"windows": Windows((60, 90), 0.4), "flip": True},
    ],
)
def test_equal_to_slow_loops(views, average):
    toy, views = Toy(), Views(**views, average=average)
    image = picture(23, 29) * (0.002 if average == "probabilities" else 1)  # or one class would have it all
    for size in ((23, 29), (14, 33)):
        expected = slow(toy, image.double().numpy(), views, size)
        got = infer(toy, image, views, height=size[0], width=size[1])
        assert got.dtype == torch.float32 and got.shape == (CLASSES, *size)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(29, 37), (13, 16), (14, 90), (5, 7)])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_windows_of_a_network_without_context_are_the_whole_to_the_last_bit(size, batch):
    toy = Toy(context=False)
    image = picture(*size, dtype=torch.uint8)
    (whole,) = toy([{"image": image, "height": size[0], "width": size[1]}])
    for stride in (0.3, 0.667, 1.0):
        got = infer(toy, image, Views(windows=Windows((13, 16), stride), batch=batch))
        assert torch.equal(got, whole["sem_seg"])


@pytest.mark.parametrize("windows", [None, WINDOWS])
def test_a_mirrored_image_has_mirrored_scores(windows):
    views = Views(windows=windows, flip=True, scales=(1.0, 1.3))
    image = picture(30, 41, dtype=torch.float64)
    there = infer(Toy().double(), image, views)
    back = infer(Toy().double(), image.flip(-1), views).flip(-1)
    torch.testing.assert_close(there, back)
    without = Views(windows=windows)
    there, back = (infer(Toy().double(), seen, without) for seen in (image, image.flip(-1)))
    assert not torch.allclose(there, back.flip(-1), atol=1)


def test_never_more_than_a_batch_of_windows():
    toy = Toy()
    views = Views(windows=Windows((10, 10), 0.5), batch=3, scales=(1.0, 2.0), flip=True)
    infer(toy, picture(40, 30), views)
    sizes = [size for batch in toy.batches for size in batch]
    assert set(sizes) == {(10, 10)} and len(sizes) == 2 * (7 * 5 + 15 * 11)
    assert [len(batch) for batch in toy.batches[:13]] == [3] * 11 + [2, 3]
    assert max(map(len, toy.batches)) == 3
    assert toy.most_alive <= 2 * views.batch  # those before are freed while the next are computed


def test_scale_and_type_of_images():
    for dtype in (torch.uint8, torch.float32, torch.float64):
        image = picture(20, 30, dtype=dtype)
        assert resize_image(image, (20, 30)) is image
        for size in ((9, 17), (41, 50)):
            got = resize_image(image, size)
            channels = [Image.fromarray(c.astype(np.uint8)).resize(size[::-1], Image.BILINEAR) for c in image.numpy()]
            pillow = np.stack([np.asarray(c) for c in channels])
            assert got.dtype == dtype and np.abs(got.double().numpy() - pillow).max() <= 1  # Pillow rounds twice


def test_images_smaller_than_a_window_are_padded_with_the_mean():
    seen = []

    class Looks(Toy):
        def forward(self, batch):
            seen.extend(x["image"] for x in batch)
            return super().forward(batch)

    infer(Looks(), picture(5, 40, dtype=torch.uint8), Views(windows=WINDOWS))
    assert {tuple(image.shape) for image in seen} == {(3, 13, 16)} and seen[0].dtype == torch.uint8
    assert all((image[:, 5:] == torch.tensor(MEAN, dtype=torch.uint8).view(-1, 1, 1)).all() for image in seen)


def test_averages_on_another_device_and_in_double_precision():
    toy, image = Toy(), picture(29, 37)
    views = {"windows": WINDOWS, "flip": True, "scales": (1.0, 1.5)}
    assert torch.equal(infer(toy, image, Views(**views)), infer(toy, image, Views(**views, accumulate="cpu")))
    precise = Toy().double()
    precise.forward = lambda batch: [{"sem_seg": torch.zeros(2, x["height"], x["width"]).double()} for x in batch]
    assert infer(precise, image, Views(**views)).dtype == torch.float64
    half = Toy()
    half.forward = lambda batch: [{"sem_seg": torch.ones(2, x["height"], x["width"]).bfloat16()} for x in batch]
    assert infer(half, image, Views(**views)).dtype == torch.float32


def test_evaluation_mode_comes_and_goes_with_the_wrapper():
    model = Toy().train()
    wrapped = SemanticInference(model, views=Views(flip=True), pixel_mean=MEAN)
    assert wrapped.training
    assert not wrapped.eval().model.training and wrapped.train(True).model.training
    assert not SemanticInference(model.eval(), views=Views(flip=True), pixel_mean=MEAN).training


def test_an_image_that_takes_long_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(semantic_inference, "_BAR_AFTER", 0)
    views = Views(windows=Windows((10, 10), 0.5), scales=(1.0, 2.0), flip=True)
    infer(Toy(), picture(40, 30), views)
    assert "/400 [" in capsys.readouterr().err
    monkeypatch.setattr(semantic_inference, "_BAR_AFTER", 60)
    infer(Toy(), picture(40, 30), views)
    assert "window" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "found"), [({"sem_seg": 0, "instances": 1}, "sem_seg, instances"), (torch.zeros(1), "Tensor")]
)
def test_a_network_of_ones_own_that_returns_something_else(output, found):
    toy = Toy()
    toy.forward = lambda batch: [output]
    with pytest.raises(ValueError, match=f"but Toy returns {found} for an image; leave its keys at their defaults"):
        infer(toy, picture(8, 8), Views(flip=True))
