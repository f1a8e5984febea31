import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform, add_pointrend_config
from fvcore.transforms.transform import CropTransform, PadTransform

from fapn_d2 import add_fapn_config
from fapn_d2.data.augmentation import RandomScale, build_augmentations, for_instance_masks
from fapn_d2.data.cropping import ColorPadTransform, PadToSize, PointInput, RandomCropAroundPoint, ResizedCrop


def _image(h, w):
    return np.random.RandomState(0).randint(0, 255, (h, w, 3), np.uint8)


def _scale_crop(cfg, **keys):
    cfg.INPUT.SCALE_CROP.ENABLED = True
    for key, value in keys.items():
        cfg.INPUT.SCALE_CROP[key] = value
    return cfg


def test_order_resize_crop_colour_flip(cfg):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.COLOR_AUG_SSD = True
    kinds = [type(a) for a in build_augmentations(cfg, True)]
    assert kinds == [ResizedCrop, ColorAugSSDTransform, T.RandomFlip]
    resized_crop = build_augmentations(cfg, True)[0]
    assert [type(a) for a in (resized_crop.resize, resized_crop.crop)] == [T.ResizeShortestEdge, T.RandomCrop]
    assert not resized_crop.reads_labels
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    cfg.INPUT.RANDOM_FLIP = "none"
    kinds = [type(a) for a in build_augmentations(cfg, True)]
    assert kinds == [ResizedCrop, ColorAugSSDTransform]
    resized_crop = build_augmentations(cfg, True)[0]
    assert type(resized_crop.crop) is T.RandomCrop_CategoryAreaConstraint and resized_crop.reads_labels
    cfg.INPUT.CROP.ENABLED = False
    assert [type(a) for a in build_augmentations(cfg, True)] == [T.ResizeShortestEdge, ColorAugSSDTransform]
    assert [type(a) for a in build_augmentations(cfg, False)] == [T.ResizeShortestEdge]


def test_flip_direction_follows_the_key(cfg):
    cfg.INPUT.RANDOM_FLIP = "vertical"
    flip = build_augmentations(cfg, True)[-1]
    assert (flip.horizontal, flip.vertical) == (False, True)


def test_pointrends_keys_are_its_own_and_ours_keep_what_is_set(cfg):
    from detectron2.config import get_cfg

    theirs = get_cfg()
    add_pointrend_config(theirs)
    assert cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == theirs.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA
    assert cfg.INPUT.COLOR_AUG_SSD == theirs.INPUT.COLOR_AUG_SSD
    theirs.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.6
    add_fapn_config(theirs)
    assert theirs.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 0.6


@pytest.mark.parametrize("size", [(30, 50), (64, 64), (90, 40)])
def test_scale_crop_always_gives_the_size(cfg, size):
    _scale_crop(cfg, SCALES=(0.5, 2.0), SIZE=(64, 64))
    augmentations = T.AugmentationList(build_augmentations(cfg, True))
    np.random.seed(0)
    for _ in range(8):
        inputs = T.AugInput(_image(*size), sem_seg=np.ones(size, np.uint8))
        augmentations(inputs)
        assert inputs.image.shape == (64, 64, 3) and inputs.sem_seg.shape == (64, 64)
        # padding is where the label is ignored, and nowhere else
        padding = inputs.sem_seg == cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        mean = np.round(cfg.MODEL.PIXEL_MEAN).astype(np.uint8)
        assert (inputs.image[padding] == mean).all()
        assert ((inputs.sem_seg == 1) == ~padding).all()


SIZE = (60, 72)
AROUND = {"centred": False, "ignore_value": 255}
CROPS = {
    "random": T.RandomCrop("absolute", SIZE),
    "relative": T.RandomCrop("relative_range", (0.3, 0.8)),
    "varied": T.RandomCrop_CategoryAreaConstraint("absolute", SIZE, 0.13, 255),
    "around": RandomCropAroundPoint("absolute", SIZE, max_area=1.0, **AROUND),
    "around and varied": RandomCropAroundPoint("absolute", SIZE, max_area=0.13, **AROUND),
}


@pytest.mark.parametrize("label_type", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CROPS)
@pytest.mark.parametrize("resize", [RandomScale((0.4, 2.5)), T.ResizeShortestEdge((0, 75, 150), 200, "choice")])
def test_resizing_padding_and_cropping_at_once(resize, name, channels, label_type):
    """Against the three in turn, with the same random numbers."""
    pad = PadToSize(SIZE, image_value=(9.0,) * channels, label_value=255)
    crop, point = CROPS[name], (20, 41) if "around" in name else None
    image = _image(80, 61)[:, :, :channels]
    labels = np.random.RandomState(1).randint(0, 9, (80, 61), np.uint8)
    corners = np.array([[0.0, 0.0], [30.0, 50.0], [61.0, 80.0]])
    unequal = []
    for seed in range(20):
        inputs = [PointInput(image, sem_seg=labels.astype(label_type), class_point=point) for _ in range(2)]
        transforms = []
        for augmentations, given in zip(([resize, pad, crop], [ResizedCrop(resize, crop, pad=pad)]), inputs):
            np.random.seed(seed)
            transforms.append(T.AugmentationList(augmentations)(given))
        (apart, at_once), (plain, fused) = inputs, transforms
        assert at_once.image.shape == apart.image.shape and at_once.image.dtype == np.uint8
        assert at_once.sem_seg.dtype == label_type and np.array_equal(at_once.sem_seg, apart.sem_seg)
        assert at_once.class_point == apart.class_point
        assert np.array_equal(plain.apply_coords(corners.copy()), fused.apply_coords(corners.copy()))
        difference = np.abs(at_once.image.astype(int) - apart.image)
        assert difference.max() <= 2  # of noise, whose neighbours differ by up to 255
        unequal.append((difference > 0).mean())
    assert np.mean(unequal) < 0.06  # ties of rounding, which small fractions of pixels make


def test_a_resized_crop_handles_all_that_a_transform_may_meet():
    pad = PadToSize((30, 30), image_value=(0.0,) * 3, label_value=255)
    np.random.seed(3)
    augmentation = ResizedCrop(RandomScale((2.0, 2.0)), T.RandomCrop("absolute", (30, 30)), pad=pad)
    fused = augmentation.get_transform(_image(10, 40))
    _, padding, crop = fused.steps.transforms
    assert (padding.y0, padding.y1, crop.h, crop.w) == (5, 5, 30, 30)
    box = fused.apply_box(np.array([[8.0, 2.0, 20.0, 9.0]]))[0]  # doubled, moved by the padding and the crop
    assert box.tolist() == [16.0 - crop.x0, 9.0 - crop.y0, 40.0 - crop.x0, 23.0 - crop.y0]
    steps = for_instance_masks(fused)
    assert [type(t) for t in steps.transforms] == [T.ResizeTransform, ColorPadTransform, CropTransform]
    assert steps.apply_segmentation(np.ones((10, 40), np.uint8)).min() == 0
    assert fused.apply_segmentation(np.ones((10, 40), np.uint8)).max() == 255


def test_scales_are_drawn_as_told():
    np.random.seed(0)
    image = _image(40, 60)
    chosen = {RandomScale([0.5, 1.0, 2.0], sampling="choice").get_transform(image).new_h for _ in range(40)}
    assert chosen == {20, 40, 80}
    ranged = [RandomScale([0.5, 2.0]).get_transform(image) for _ in range(200)]
    assert min(t.new_h for t in ranged) < 24 and max(t.new_h for t in ranged) > 76
    assert len({t.new_h for t in ranged}) > 20
    assert all(abs(t.new_w / t.new_h - 1.5) < 0.06 for t in ranged)


def test_a_scale_never_gives_an_empty_image():
    transform = RandomScale([0.01], sampling="choice").get_transform(_image(3, 40))
    assert (transform.new_h, transform.new_w) == (1, 1)


def test_padding_is_centred_and_moves_coordinates():
    image = _image(3, 4)
    pad = PadToSize((6, 9), image_value=(1.4, 2.6, 3.0), label_value=7).get_transform(image)
    padded, labels = pad.apply_image(image), pad.apply_segmentation(np.zeros((3, 4), np.uint8))
    assert padded.dtype == np.uint8 and padded.shape == (6, 9, 3)
    assert (padded[1:4, 2:6] == image).all()
    assert padded[0, 0].tolist() == [1, 3, 3] and padded[-1, -1].tolist() == [1, 3, 3]
    assert (labels[1:4, 2:6] == 0).all() and (labels == 7).sum() == 6 * 9 - 12
    assert pad.apply_coords(np.array([[0.0, 0.0], [4.0, 3.0]])).tolist() == [[2, 1], [6, 4]]
    assert (pad.inverse().apply_image(padded) == image).all()
    assert pad.apply_image(image.astype(np.float32))[0, 0] == pytest.approx([1.4, 2.6, 3.0])
    assert isinstance(PadToSize((3, 2), image_value=(0,), label_value=0).get_transform(image), T.NoOpTransform)


def test_instance_masks_are_padded_with_nothing():
    pads = [PadTransform(1, 0, 0, 0, seg_pad_value=255)]
    nested = T.TransformList([T.TransformList(pads), T.HFlipTransform(4)])
    mask = np.ones((2, 3), np.uint8)
    assert nested.apply_segmentation(mask).tolist() == [[1, 1, 1, 255]] * 2
    assert for_instance_masks(nested).apply_segmentation(mask).tolist() == [[1, 1, 1, 0]] * 2
    assert pads[0].seg_pad_value == 255


@pytest.mark.parametrize(
    "keys,message",
    [
        ({"SAMPLING": "uniform"}, 'SAMPLING is "uniform"; allowed are "range" and "choice"'),
        ({"SCALES": (0.5, 1.0, 2.0)}, r"SCALES must be \(least, greatest\).*got \(0.5, 1.0, 2.0\)"),
        ({"SCALES": (2.0, 0.5)}, r"SCALES must be \(least, greatest\)"),
        ({"SCALES": (0.0, 1.0)}, "SCALES must be positive"),
        ({"SIZE": (512,)}, r"SIZE must be \(H, W\) in pixels, got \(512,\)"),
    ],
)
def test_refused_scale_crop_settings(cfg, keys, message):
    with pytest.raises(ValueError, match=message):
        build_augmentations(_scale_crop(cfg, **keys), True)


def test_refused_combinations(cfg):
    _scale_crop(cfg)
    cfg.INPUT.CROP.ENABLED = True
    with pytest.raises(ValueError, match=r"INPUT.CROP.ENABLED and INPUT.SCALE_CROP.ENABLED are both set"):
        build_augmentations(cfg, True)
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.COLOR_AUG_SSD, cfg.INPUT.FORMAT = True, "L"
    with pytest.raises(ValueError, match=r'needs INPUT.FORMAT "BGR" or "RGB", got "L"'):
        build_augmentations(cfg, True)
