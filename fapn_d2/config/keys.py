"""Every configuration key that this project adds to Detectron2's, with its default and its meaning.

One function a room, so that a reader finds a key beside its kin. Keys that Detectron2 has are used, not doubled:
``MODEL.FPN.{IN_FEATURES,OUT_CHANNELS,NORM,FUSE_TYPE}`` describe every pyramid.
"""

from detectron2.config import CfgNode as CN

#: Keys under MODEL.NECK that take one strategy name for all levels or a list of names, finest level first.
#: ``None`` means: what the preset of the builder says.
STRATEGY_KEYS = ("CONTEXT", "LATERAL", "ALIGN", "FUSE", "MERGE", "OUTPUT")


def add_fapn_config(cfg: CN) -> None:
    """Add every key of fapn_d2 to a Detectron2 config, in place. Calling it twice resets the keys to their defaults."""
    cfg.MODEL.NECK = neck_defaults()
    _add_backbones(cfg)
    _add_heads(cfg)
    _add_meta_arch(cfg)
    _add_data(cfg)
    _add_engine(cfg)


def neck_defaults() -> CN:
    """The node MODEL.NECK with its defaults; pyramids are built from it where a config has no such node."""
    neck = CN()
    # The paper whose strategies fill the keys left at None: "fpn", "fapn", ... (necks/presets.py).
    # Empty: the preset of the builder (`build_resnet_fapn_backbone` -> "fapn"; `build_pyramid_backbone` -> "fpn").
    neck.PRESET = ""
    # Builder of the bottom-up network, a name in Detectron2's BACKBONE registry.
    neck.BOTTOM_UP = "build_resnet_backbone"
    # The holes of the pyramid; necks/strategies/ has a file a hole, with its names.
    for key in STRATEGY_KEYS:
        neck[key] = None
    # What extends the pyramid above its coarsest level: "none", "max_pool" (P6 for RPN), "p6p7" (RetinaNet, FCOS), or
    # mmdetection's, where AugFPN adds the mean of the context map, if there is one, to P6: "p6p7_context" (RetinaNet;
    # no ReLU between P6 and P7), "p6p7_relu_context" (FCOS). None: what the builder is for.
    neck.TOP_BLOCK = None
    # Map that these P6 start from: a bottom-up map ("res5") or a pyramid level ("p5"). Empty: coarsest bottom-up map.
    neck.TOP_BLOCK_IN = ""

    # Maps that training-only branches need beside the levels: any of EXTRA_OUTPUTS in necks/topdown.py. They are in the
    # feature dict in training mode only, under their own names ("lateral4", "merged4", "res4"), not in output_shape().
    neck.EXTRA_OUTPUTS = []

    # ALIGN "deform": FaPN's feature alignment module (paper, Section 3.1).
    neck.DEFORM = CN()
    neck.DEFORM.GROUPS = 8  # offset groups of the deformable convolution; the paper's text describes 1
    neck.DEFORM.UPSAMPLE = "bilinear"  # coarse map to fine size before alignment; "nearest" in Appendix B
    neck.DEFORM.OFFSET_GAIN = 2.0  # factor on the upsampled map where offsets are predicted; the paper's text has 1
    # Who computes the deformable convolution: "auto" (this project's kernels where they can run), "torchvision", or
    # "triton" (on CUDA this project's kernels or an error). Empty: what the environment variable FAPN_DEFORM_CONV says.
    neck.DEFORM.BACKEND = ""

    # CONTEXT "residual_augmentation": AugFPN, Section 3.2 and Table 4.
    neck.RESIDUAL_AUGMENTATION = CN()
    # "ratio": ratio-invariant average pooling; "psp": to fixed sizes; "gap", "gmp": global average or maximum.
    neck.RESIDUAL_AUGMENTATION.POOLING = "ratio"
    neck.RESIDUAL_AUGMENTATION.RATIOS = [0.1, 0.2, 0.3]  # of "ratio": pooled height and width over the map's; alpha
    neck.RESIDUAL_AUGMENTATION.SIZES = [1, 2, 3]  # of "psp": pooled height and width, in pixels
    neck.RESIDUAL_AUGMENTATION.FUSION = "asf"  # of the pooled maps; "sum", "max", "acf": see SOFT_ROI_SELECTION

    # ALIGN "flow": SFNet's flow alignment module (paper, Section 3.2).
    neck.FLOW = CN()
    # Fine pixels that one unit of flow moves; the text of the paper has 1.0. Networks learn either.
    neck.FLOW.UNIT = 0.5
    neck.FLOW.ALIGN_CORNERS = True  # of upsampling and of warping; the code of 2019 had False for the former

    # CONTEXT "ppm": pyramid pooling, SFNet's context.
    neck.PYRAMID_POOLING = CN()
    neck.PYRAMID_POOLING.BINS = [1, 2, 3, 6]  # cells along each side
    neck.PYRAMID_POOLING.KERNEL_SIZE = 1  # of the convolution that joins them; PSPNet has 3
    neck.PYRAMID_POOLING.DROPOUT = 0.1  # probability that a channel is dropped
    neck.PYRAMID_POOLING.ALIGN_CORNERS = True  # of the upsampling of pooled maps
    # CONTEXT "aspp", "dense_aspp", "non_local": SFNet, Table 3, with widths that come near its GFLOPs.
    neck.ASPP = CN()
    neck.ASPP.CHANNELS = 512  # of each branch
    neck.ASPP.DILATIONS = [6, 12, 18, 24]  # in pixels of the map
    neck.ASPP.DROPOUT = 0.1
    neck.DENSE_ASPP = CN()
    neck.DENSE_ASPP.REDUCED = 256  # channels that the bottom-up map is reduced to first
    neck.DENSE_ASPP.CHANNELS = 512  # of the 1x1 convolution before each dilated one
    neck.DENSE_ASPP.GROWTH = 512  # of each dilated convolution
    neck.DENSE_ASPP.DILATIONS = [3, 6, 12, 18, 24]
    neck.DENSE_ASPP.DROPOUT = 0.1
    neck.NON_LOCAL = CN()
    neck.NON_LOCAL.CHANNELS = 1024  # of the map that attends to itself
    neck.NON_LOCAL.KEY_CHANNELS = 128
    neck.NON_LOCAL.HIDDEN = 512  # of the convolution that joins it with the bottom-up map
    neck.NON_LOCAL.DROPOUT = 0.1
    return neck


def _add_backbones(cfg: CN) -> None:
    """Keys of fapn_d2.backbones. MODEL.BACKBONE.FREEZE_AT is read by all of them."""
    # MODEL.NECK.BOTTOM_UP "build_timm_backbone": any network of timm with maps of strides 4 to 32.
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "mobilenetv2_100"  # timm's name; weights: MODEL.WEIGHTS "timm://<name>"
    # "BN": batch normalisation as timm builds it; "SyncBN": statistics over all processes; "EvalBN": the loaded
    # statistics are kept, scale and shift are trained (mmdetection); "FrozenBN": both are kept (Detectron2).
    cfg.MODEL.TIMM.NORM = "BN"

    # "build_deep_stem_resnet_backbone": of Detectron2's MODEL.RESNETS it reads what its docstring says, and:
    cfg.MODEL.RESNETS.STEM_CEIL_MODE = False  # round sizes up in the stem's max-pooling: 257 for 1024 pixels
    cfg.MODEL.RESNETS.OUTPUT_STRIDE = 32  # 16 or 8: res5, or res4 and res5, are dilated and have no stride
    # Dilation of the 3x3 convolution (basic blocks: of the second) in res2 to res5, whose strides stay: [1, 1, 2, 4] is
    # "variant D" of SFNet's code of 2020, which its checkpoints need.
    cfg.MODEL.RESNETS.CONV2_DILATION = [1, 1, 1, 1]
    # "build_shufflenetv2_backbone".
    cfg.MODEL.SHUFFLENETV2 = CN()
    cfg.MODEL.SHUFFLENETV2.WIDTH = 1.5  # multiplier of the channels: 0.5, 1.0, 1.5, 2.0
    cfg.MODEL.SHUFFLENETV2.NORM = "SyncBN"  # or "BN", "FrozenBN"
    cfg.MODEL.SHUFFLENETV2.OUT_FEATURES = ["stage2", "stage3", "conv5"]  # of "stem", "stage2" to "stage4", "conv5"
    cfg.MODEL.SHUFFLENETV2.CEIL_MODE = False  # of the max-pooling


def _add_heads(cfg: CN) -> None:
    """Keys of fapn_d2.heads."""
    # AugFPN, Section 3.3, in MODEL.ROI_HEADS.NAME "AugFPNROIHeads": every region is pooled from every level.
    cfg.MODEL.SOFT_ROI_SELECTION = CN()
    # How the levels' features become one: "asf", "acf" (a weight for each position, or each channel, of each level),
    # "sum", "max" (Table 5); "none": one level by the region's size, as in FPN.
    cfg.MODEL.SOFT_ROI_SELECTION.FUSION = "asf"
    cfg.MODEL.SOFT_ROI_SELECTION.MASK = True  # also for the mask head, with weights of its own

    # AugFPN, Section 3.1: auxiliary losses on the raw laterals in training, for MODEL.ROI_HEADS.NAME "AugFPNROIHeads"
    # and MODEL.META_ARCHITECTURE "ConsistentRetinaNet" and "ConsistentFCOS". Its heads are built like those of
    # MODEL.ROI_BOX_HEAD and MODEL.ROI_MASK_HEAD; regions are sampled as MODEL.ROI_HEADS says.
    cfg.MODEL.CONSISTENT_SUPERVISION = CN()
    # "all_levels": every region on every level; "single_level": on the level of its size (Table 3); "none": neither
    # losses nor parameters, for an inference-only network too.
    cfg.MODEL.CONSISTENT_SUPERVISION.MODE = "all_levels"
    cfg.MODEL.CONSISTENT_SUPERVISION.WEIGHT = 0.25  # lambda, of each level's loss; the losses are summed over levels
    cfg.MODEL.CONSISTENT_SUPERVISION.MASK = True  # also an auxiliary mask head, where there is a mask head
    # Regions in one-stage detectors: their own detections, in training.
    cfg.MODEL.CONSISTENT_SUPERVISION.PRE_NMS_TOPK = 2000  # positions a level, by their best class
    cfg.MODEL.CONSISTENT_SUPERVISION.SCORE_THRESH = 0.01  # least score of a class
    cfg.MODEL.CONSISTENT_SUPERVISION.NMS_THRESH = 0.7  # IoU, in each class
    cfg.MODEL.CONSISTENT_SUPERVISION.POST_NMS_TOPK = 1000  # regions an image

    # MODEL.SEM_SEG_HEAD.NAME "AlignedDecoderHead" (SFNet) and "SingleLevelHead" (FCN, real-time FaPN). Of Detectron2's
    # keys they read IN_FEATURES, NUM_CLASSES, CONVS_DIM (0: no hidden layer), NORM, LOSS_WEIGHT and IGNORE_VALUE.
    head = cfg.MODEL.SEM_SEG_HEAD
    head.ALIGN_CORNERS = True  # of every resampling, of logits too
    # What brings coarser levels to the finest one's size before they are concatenated: "bilinear", or "flow" as in the
    # text of SFNet, which its printed GFLOPs and parameters contradict.
    head.FUSION_ALIGN = "bilinear"
    head.LOSS = "cross_entropy"  # or "ohem": the mean over hard pixels only
    # Hard pixels have a probability of their true class up to THRESHOLD; where they are fewer than the greatest of the
    # other three numbers, that many of the hardest. SFNet's text: 0.0 and KEEP_FRACTION 0.1. Its codes: 0.7 and
    # MIN_KEPT_PER_IMAGE 100000 (2019, 9.5 % of its crops), or MIN_KEPT 10000 or 100000 (2020).
    head.OHEM = CN()
    head.OHEM.THRESHOLD = 0.7
    head.OHEM.KEEP_FRACTION = 0.1  # of the pixels that are not ignored
    head.OHEM.MIN_KEPT = 0  # pixels of a batch on one process
    head.OHEM.MIN_KEPT_PER_IMAGE = 0  # pixels, times the images of that batch
    # Classifiers with losses of their own on inner maps, in training: any of the backbone's maps, and those that
    # MODEL.NECK.EXTRA_OUTPUTS adds ("merged4", "res4"). Their losses are called "loss_sem_seg_<map>".
    head.DEEP_SUPERVISION = CN()
    head.DEEP_SUPERVISION.FEATURES = []
    head.DEEP_SUPERVISION.WEIGHTS = []  # one for each of FEATURES; empty: 1.0
    head.DEEP_SUPERVISION.LOSSES = []  # one for each of FEATURES; empty: LOSS
    head.DEEP_SUPERVISION.CHANNELS = []  # of the hidden convolution, one for each; empty: as many as the map has
    head.DEEP_SUPERVISION.DROPOUT = 0.1  # probability that a channel is dropped


def _add_meta_arch(cfg: CN) -> None:
    """Keys of fapn_d2.meta_arch."""
    # MODEL.META_ARCHITECTURE "FCOS": Detectron2's, which itself can be built from Python only; its defaults.
    cfg.MODEL.FCOS = CN()
    cfg.MODEL.FCOS.NUM_CLASSES = 80
    cfg.MODEL.FCOS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.FCOS.NUM_CONVS = 4  # 3x3 convolutions before each of the two predictors
    cfg.MODEL.FCOS.NORM = "GN"
    cfg.MODEL.FCOS.PRIOR_PROB = 0.01  # score of every class at the start
    # Points within this many strides of an object's centre are its candidates; 0: all points inside its box.
    cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS = 1.5
    cfg.MODEL.FCOS.FOCAL_LOSS_ALPHA = 0.25
    cfg.MODEL.FCOS.FOCAL_LOSS_GAMMA = 2.0
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.2  # of sqrt(class score * centerness)
    cfg.MODEL.FCOS.TOPK_CANDIDATES_TEST = 1000  # a level
    cfg.MODEL.FCOS.NMS_THRESH_TEST = 0.6


def _add_data(cfg: CN) -> None:
    """Keys of fapn_d2.data."""
    # Images left out of training because a file of theirs is missing, broken or of the wrong size; each is named in a
    # warning and listed in OUTPUT_DIR/bad_images.txt. One more stops the run; 0 stops at the first. Evaluation never
    # leaves any out.
    cfg.INPUT.MAX_BAD_IMAGES = 0
    # Training on crops of one size from randomly scaled images, as real-time segmentation does it (FaPN's Table 8,
    # SFNet). Takes the place of INPUT.{MIN,MAX}_SIZE_TRAIN and INPUT.CROP.
    cfg.INPUT.SCALE_CROP = CN()
    cfg.INPUT.SCALE_CROP.ENABLED = False
    cfg.INPUT.SCALE_CROP.SCALES = (0.75, 2.0)  # factors on the original size
    cfg.INPUT.SCALE_CROP.SAMPLING = "range"  # SCALES is (least, greatest); "choice": SCALES lists all factors
    cfg.INPUT.SCALE_CROP.SIZE = (1024, 1024)  # (H, W) of the crop in pixels; smaller images are padded on all sides
    # Two keys of PointRend, here for configs that have not called its add_pointrend_config.
    # Largest part of a crop that one class may fill; ten crops are tried. 1.0: any.
    if "SINGLE_CATEGORY_MAX_AREA" not in cfg.INPUT.CROP:
        cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Random brightness, contrast, saturation and hue as in SSD's training.
    if "COLOR_AUG_SSD" not in cfg.INPUT:
        cfg.INPUT.COLOR_AUG_SSD = False
    # DATALOADER.SAMPLER_TRAIN "ClassUniformSampler", for semantic labels: every class gets equally many crops that hold
    # it, as in SFNet's code of 2020.
    cfg.DATALOADER.CLASS_UNIFORM = CN()
    cfg.DATALOADER.CLASS_UNIFORM.FRACTION = 0.5  # of the samples; the others are images in random order
    # Images are divided into squares of this side, in pixels; each has one point for each class in it.
    cfg.DATALOADER.CLASS_UNIFORM.TILE = 1024
    # Where the crop lies: "around": anywhere, as long as it holds the point; "centred" on it, as far as the image goes.
    cfg.DATALOADER.CLASS_UNIFORM.PLACE = "around"
    # Folder of the list of points, which runs may share; it is made once, and anew where labels change. Empty:
    # OUTPUT_DIR.
    cfg.DATALOADER.CLASS_UNIFORM.CACHE = ""


def _add_engine(cfg: CN) -> None:
    """Keys of fapn_d2.engine and fapn_d2.evaluation."""
    # Names (prefixes of parameter names, "roi_heads.box_predictor") that training does not take from MODEL.WEIGHTS but
    # initialises: what is meant to differ when a trained network is tuned on other classes. Never used in evaluation.
    cfg.MODEL.WEIGHTS_SKIP = []
    # Convolutions with channels as the innermost dimension, which suits half precisions on tensor cores.
    cfg.MODEL.CHANNELS_LAST = False
    # torch.compile of the backbone (bottom-up network and pyramid); "dynamic": one program for all sizes of images, as
    # detectors need it; "static": one for each size, at most eight, for training on crops; "none": not compiled.
    cfg.MODEL.COMPILE = "none"
    # What scores: "fast", this project's counting and, for COCO, the package hotcoco where it is installed; or
    # "official": pycocotools, panopticapi, cityscapesscripts. They agree (tests/evaluation); the latter take minutes.
    cfg.TEST.BACKEND = "fast"
    # Keep the predictions below OUTPUT_DIR, so that tools/submission.py can make an archive for a server of them: on
    # Cityscapes and panoptic data in the formats of their servers, classes of pixels as PNGs. COCO's boxes and masks
    # are always kept.
    cfg.TEST.KEEP_PREDICTIONS = False
    # Which objects an archive for a server holds, and how exactly (tools/submission.py).
    cfg.TEST.SUBMISSION = CN()
    cfg.TEST.SUBMISSION.MAX_PER_IMAGE = 100  # those with the highest scores; COCO's server reads 100
    cfg.TEST.SUBMISSION.SCORE_THRESH = 0.0  # objects with a lower score are left out
    cfg.TEST.SUBMISSION.BOX_DECIMALS = 1  # of boxes, in pixels
    cfg.TEST.SUBMISSION.SCORE_DIGITS = 5  # significant digits
    # Widths in pixels of the bands around the outlines in the ground truth within which mIoU is reported as well: n of
    # FaPN's Table 2, where it is [3, 5, 8, 12]. Empty: none.
    cfg.TEST.BOUNDARY_WIDTHS = []
    # How networks that predict classes of pixels, and nothing else, see an image. The defaults are the plain network.
    cfg.TEST.SEM_SEG = CN()
    cfg.TEST.SEM_SEG.MODE = "whole"  # or "slide": overlapping windows, whose scores are averaged where they overlap
    # (H, W) of the windows in pixels of the scaled image. Smaller images are padded below and on the right.
    cfg.TEST.SEM_SEG.CROP_SIZE = (864, 864)
    cfg.TEST.SEM_SEG.STRIDE = 0.667  # from window to window, in windows; the last one is shifted into the image
    cfg.TEST.SEM_SEG.CROP_GROWS = False  # with scales above 1, as in SFNet's code of 2020: as many windows as at 1
    cfg.TEST.SEM_SEG.SCALES = [1.0]  # factors on the image as INPUT.MIN_SIZE_TEST makes it
    cfg.TEST.SEM_SEG.FLIP = False  # each scale also mirrored
    cfg.TEST.SEM_SEG.AVERAGE = "logits"  # over windows, scales and mirror images; or "probabilities"
    cfg.TEST.SEM_SEG.BATCH = 4  # windows that go through the network together
    # Device of the averages, up to three maps of an image's size with a number a class: "cpu" where they are too large
    # for the GPU. Empty: the model's.
    cfg.TEST.SEM_SEG.ACCUMULATE = ""
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "AdamW"
    # Type of numbers under SOLVER.AMP.ENABLED: "float16" (CUDA only, with loss scaling), "bfloat16", or
    # "auto": float16 on CUDA, as Detectron2 does it, and bfloat16 on the CPU.
    cfg.SOLVER.AMP.DTYPE = "auto"
    # LR_SCHEDULER_NAME "WarmupPolyLR": lr = BASE_LR * max((1 - iteration / MAX_ITER)^POWER, CONSTANT_ENDING).
    # Names and defaults are those of detectron2.projects.deeplab, so that both can add them to one config.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
