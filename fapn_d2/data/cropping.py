"""Crops as augmentations of Detectron2: resizing, padding and cropping in one step; crops around a point."""

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, PadTransform, Transform, TransformList
from PIL import Image


class PadToSize(T.Augmentation):
    """Pad an image that is smaller than ``size`` (H, W), equally on both sides.

    Args:
        size: (H, W) in pixels.
        image_value: the colour of the padding, one number per channel in the order of INPUT.FORMAT.
        label_value: the class number of the padding.
    """

    def __init__(self, size: tuple[int, int], *, image_value: Sequence[float], label_value: int):
        super().__init__()
        self.size, self.image_value, self.label_value = tuple(size), tuple(image_value), label_value

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        rows, columns = max(self.size[0] - h, 0), max(self.size[1] - w, 0)
        if not rows and not columns:
            return T.NoOpTransform()
        top, left = rows // 2, columns // 2
        return ColorPadTransform(
            left, top, columns - left, rows - top, w, h, pad_value=self.image_value, seg_pad_value=self.label_value
        )


class ColorPadTransform(PadTransform):
    """fvcore's ``PadTransform`` with a ``pad_value`` for each channel instead of one for all."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        h, w = img.shape[:2]
        color = np.asarray(self.pad_value)
        if img.dtype == np.uint8:
            color = color.round()
        shape = (self.y0 + h + self.y1, self.x0 + w + self.x1, *img.shape[2:])
        out = np.empty(shape, img.dtype)
        out[...] = color
        out[self.y0 : self.y0 + h, self.x0 : self.x0 + w] = img
        return out


class ResizedCrop(T.Augmentation):
    """Resizing, padding and a random crop in one step: only the crop is resized, not the whole image.

    Random numbers are drawn in the same order as by the three steps one after the other, and labels are identical.
    Colours may differ by 1 of 255, because Pillow stores the position of the crop in single precision.

    Args:
        resize: a resizing augmentation of Detectron2, or `RandomScale`.
        crop: a random crop of Detectron2, or an augmentation whose ``input_args`` name the inputs that it reads, such
            as `RandomCropAroundPoint`.
        pad: the padding between the two steps; None for no padding.
    """

    def __init__(self, resize: T.Augmentation, crop: T.Augmentation, *, pad: PadToSize | None = None):
        super().__init__()
        self.resize, self.crop, self.pad = resize, crop, pad
        #: Inputs that Detectron2 passes to get_transform: "image", then the other inputs of the crop. In Detectron2's
        #: own crops it is None until their first use.
        self.input_args = crop.input_args or (("image", "sem_seg") if self.reads_labels else ("image",))

    @property
    def reads_labels(self) -> bool:
        """Whether the crop depends on labels."""
        return isinstance(self.crop, T.RandomCrop_CategoryAreaConstraint)

    def get_transform(self, image: np.ndarray, *others) -> Transform:
        h, w = image.shape[:2]
        resize = self.resize.get_transform(image)
        if not isinstance(resize, T.ResizeTransform):  # a size of 0 keeps the image as it is
            resize = T.ResizeTransform(h, w, h, w)
        size = (resize.new_h, resize.new_w)
        pad = T.NoOpTransform() if self.pad is None else self.pad.get_transform(_blank(*size))
        size = tuple(map(max, size, self.pad.size)) if self.pad else size
        seen = dict(zip(self.input_args, (image, *others)))
        seen["image"] = _blank(*size)
        labels = seen.get("sem_seg")
        if labels is not None:  # torch resizes the other types, and cannot resize a part alone
            if labels.dtype == np.uint8:
                seen["sem_seg"] = _LazyLabels(labels, size, resize, pad)
            else:
                seen["sem_seg"] = pad.apply_segmentation(resize.apply_segmentation(labels))
        if seen.get("class_point") is not None:
            row, column = seen["class_point"]
            x, y = pad.apply_coords(resize.apply_coords(np.array([[column + 0.5, row + 0.5]])))[0]
            seen["class_point"] = (int(y), int(x))
        return ResizedCropTransform(resize, pad, self.crop.get_transform(**seen))


class _LazyLabels:
    """uint8 labels after resizing and padding; only the parts that are requested are computed."""

    def __init__(self, labels: np.ndarray, size: tuple[int, int], resize: T.ResizeTransform, pad: Transform):
        self.shape = size
        self._labels, self._before = labels, (resize, pad)

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        (top, bottom, _), (left, right, _) = (p.indices(n) for p, n in zip(part, self.shape))
        crop = CropTransform(left, top, right - left, bottom - top)
        return ResizedCropTransform(*self._before, crop).apply_segmentation(self._labels)


class ResizedCropTransform(Transform):
    """The transform of `ResizedCrop` for one image: resize, pad and crop, in one step for uint8 images.

    Args:
        resize: the resizing of the whole image.
        pad: the padding of the resized image, or ``NoOpTransform``.
        crop: the crop of the padded image.
    """

    def __init__(self, resize: T.ResizeTransform, pad: Transform, crop: CropTransform):
        super().__init__()
        self.steps = TransformList([resize, pad, crop])
        self._resize = resize
        top, left = (pad.y0, pad.x0) if isinstance(pad, PadTransform) else (0, 0)
        # The position of the crop in the resized image. The crop extends beyond that image where there is padding.
        y, x = crop.y0 - top, crop.x0 - left
        rows = slice(max(y, 0), min(y + crop.h, resize.new_h))
        columns = slice(max(x, 0), min(x + crop.w, resize.new_w))
        self._rows, self._columns = rows, columns
        self._pad: Transform = T.NoOpTransform()
        if isinstance(pad, PadTransform):
            before = (columns.start - x, rows.start - y)
            after = (x + crop.w - columns.stop, y + crop.h - rows.stop)
            values = {"pad_value": pad.pad_value, "seg_pad_value": pad.seg_pad_value}
            size = (columns.stop - columns.start, rows.stop - rows.start)
            self._pad = ColorPadTransform(*before, *after, *size, **values)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if img.dtype != np.uint8:
            return self.steps.apply_image(img)
        plain = img[:, :, 0] if img.ndim == 3 and img.shape[2] == 1 else img
        around_y, top, bottom = _source(self._rows, self._resize.h, self._resize.new_h)
        around_x, left, right = _source(self._columns, self._resize.w, self._resize.new_w)
        size = (self._columns.stop - self._columns.start, self._rows.stop - self._rows.start)
        source = Image.fromarray(np.ascontiguousarray(plain[around_y, around_x]))
        part = np.asarray(source.resize(size, self._resize.interp, box=(left, top, right, bottom)))
        return self._pad.apply_image(part.reshape(*part.shape[:2], *img.shape[2:]))

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        if segmentation.dtype != np.uint8:
            return self.steps.apply_segmentation(segmentation)
        rows = _nearest(self._resize.h, self._resize.new_h)[self._rows]
        columns = _nearest(self._resize.w, self._resize.new_w)[self._columns]
        return self._pad.apply_segmentation(segmentation[rows][:, columns])

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return self.steps.apply_coords(coords)

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        return self.steps.apply_box(box)

    def apply_polygons(self, polygons: list) -> list[np.ndarray]:
        return self.steps.apply_polygons(polygons)

    def inverse(self) -> Transform:
        return self.steps.inverse()


def _source(part: slice, old: int, new: int) -> tuple[slice, float, float]:
    """The source pixels (of ``old``) needed for a part of the ``new`` pixels, and the part's begin and end in them."""
    step = old / new
    begin, end = part.start * step, part.stop * step
    margin = (
        int(max(step, 1.0)) + 2
    )  # pixels that the filter reads beside the part; a short range keeps single precision accurate
    first, last = max(int(begin) - margin, 0), min(int(end) + margin + 1, old)
    return slice(first, last), begin - first, min(end - first, last - first)


def _nearest(old: int, new: int) -> np.ndarray:
    """The source pixel (of ``old``) that Pillow chooses for each of the ``new`` pixels.

    Pillow accumulates the step, so we do the same: otherwise ties would be rounded differently.
    """
    steps = np.full(new, old / new)
    steps[0] /= 2
    return np.add.accumulate(steps).astype(np.intp)


def _blank(h: int, w: int) -> np.ndarray:
    """(H, W) zeros that use no memory, for augmentations that only read the size."""
    return np.broadcast_to(np.uint8(0), (h, w))


class RandomCropAroundPoint(T.Augmentation):
    """A random crop that contains the point of its input, if the input has one.

    Args:
        kind, size: the arguments of Detectron2's ``RandomCrop``.
        centred: whether the point is in the middle of the crop, as far as the image allows, or anywhere in it.
        max_area: the largest fraction of the labelled pixels in a crop that one class may cover; ten crops are tried.
        ignore_value: the value of pixels that are not labelled.
    """

    input_args = ("image", "sem_seg", "class_point")

    def __init__(self, kind: str, size: Sequence[float], *, centred: bool, max_area: float, ignore_value: int):
        super().__init__()
        self.kind, self.size = kind, tuple(size)  # these attributes are printed by repr()
        self.sizes = T.RandomCrop(kind, size)
        self.without_point = T.RandomCrop_CategoryAreaConstraint(kind, size, max_area, ignore_value)
        self.centred, self.max_area, self.ignore_value = centred, max_area, ignore_value

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray, class_point: tuple[int, int] | None) -> Transform:
        if class_point is None:
            return self.without_point.get_transform(image, sem_seg)
        for _ in range(10):
            size = self.sizes.get_crop_size(image.shape[:2])
            y, x = (self._start(*side) for side in zip(class_point, size, image.shape[:2]))
            if self.max_area >= 1 or self._varied(sem_seg[y : y + size[0], x : x + size[1]]):
                break
        return CropTransform(x, y, size[1], size[0])

    def _start(self, point: int, window: int, length: int) -> int:
        """First pixel of a window of ``window`` pixels, in a side of ``length`` pixels, that contains ``point``."""
        least, greatest = max(point - window + 1, 0), min(point, length - window)
        if self.centred:
            return min(max(point - window // 2, least), greatest)
        return np.random.randint(least, greatest + 1)

    def _varied(self, labels: np.ndarray) -> bool:
        values, counts = np.unique(labels, return_counts=True)
        counts = counts[values != self.ignore_value]
        return len(counts) > 1 and counts.max() < counts.sum() * self.max_area


class PointInput(T.AugInput):
    """Detectron2's input of augmentations, with a point that is transformed together with the image.

    Args:
        image, sem_seg: the arguments of ``AugInput``.
        class_point: the (row, column) of a pixel, or None.
    """

    def __init__(self, image: np.ndarray, *, sem_seg: np.ndarray | None = None, class_point: tuple | None = None):
        super().__init__(image, sem_seg=sem_seg)
        # The middle of the pixel, because transforms count coordinates from the corners of pixels.
        self._xy = None if class_point is None else np.array([[class_point[1] + 0.5, class_point[0] + 0.5]])

    @property
    def class_point(self) -> tuple[int, int] | None:
        """(row, column) of the pixel where the point is after the transforms so far."""
        return None if self._xy is None else (int(self._xy[0, 1]), int(self._xy[0, 0]))

    def transform(self, tfm: Transform) -> None:
        super().transform(tfm)
        if self._xy is not None:
            self._xy = tfm.apply_coords(self._xy)
