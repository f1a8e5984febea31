"""Every configuration key that this project adds to Detectron2's keys, with its default and its meaning.

There is one function per package (necks, backbones, heads, ...). Where Detectron2 has a key already, that key is used:
``MODEL.FPN.{IN_FEATURES,OUT_CHANNELS,NORM,FUSE_TYPE}`` describe every pyramid.
"""

from collections.abc import Callable

from detectron2.config import CfgNode as CN

#: Keys under MODEL.NECK for the parts of the pyramid. Each takes one strategy name for all levels, or a list of names,
#: finest level first. ``None`` means: as in the preset.
STRATEGY_KEYS = ("CONTEXT", "LATERAL", "ALIGN", "FUSE", "MERGE", "OUTPUT")


#: Functions that :func:`complete_catalogs` calls. They make entries in Detectron2's catalogs that another project may
#: make as well. If the import of fapn_d2 made them, the import of the other project would fail.
when_used: list[Callable[[], None]] = []
#: Functions that ``load_config`` calls at its end, with the config and the set of keys that the user has chosen: those
#: in the file that describes DATASETS.CUSTOM and in all that is merged after it.
when_loaded: list[Callable[[CN, set[str]], None]] = []


def complete_catalogs() -> None:
    """Register the data sets that other projects may register as well, and add missing colours.

    What is in the catalogs already does not change. :func:`add_fapn_config` calls this, because a config is made after
    all imports. Code that uses data sets without a config calls it too.
    """
    for function in when_used:
        function()


def add_fapn_config(cfg: CN) -> None:
    """Add every key of fapn_d2 to a Detectron2 config, in place. Calling it twice resets the keys to their defaults.

    It also calls :func:`complete_catalogs`.
    """
    complete_catalogs()
    cfg.MODEL.NECK = neck_defaults()
    _add_backbones(cfg)
    _add_heads(cfg)
    _add_meta_arch(cfg)
    _add_data(cfg)
    _add_engine(cfg)


def neck_defaults() -> CN:
    """The node MODEL.NECK with its defaults. Pyramids are built from it where a config has no such node."""
    neck = CN()
    # The paper whose strategies are used for the keys left at None: "fpn", "fapn", "augfpn" or "sfnet"
    # (necks/presets.py). Empty: the preset of the builder ("fapn" for build_resnet_fapn_backbone, "fpn" for
    # build_pyramid_backbone).
    neck.PRESET = ""
    # Builder of the bottom-up network: a name in Detectron2's BACKBONE registry.
    neck.BOTTOM_UP = "build_resnet_backbone"
    # The parts of the pyramid. The names are in necks/strategies/, one file per part.
    for key in STRATEGY_KEYS:
        neck[key] = None
    # What extends the pyramid above its coarsest level: "none"; "max_pool" (P6 for RPN); "p6p7" (RetinaNet, FCOS); or
    # mmdetection's P6 and P7, where AugFPN adds the mean of the context map, if there is one, to P6: "p6p7_context"
    # (RetinaNet; no ReLU between P6 and P7) and "p6p7_relu_context" (FCOS). None: the builder chooses.
    neck.TOP_BLOCK = None
    # The map that P6 of these blocks is computed from: a bottom-up map ("res5") or a pyramid level ("p5"). Empty: the
    # coarsest bottom-up map.
    neck.TOP_BLOCK_IN = ""

    # Kinds of maps that branches for training need besides the levels: any of EXTRA_OUTPUTS in necks/topdown.py. Such
    # maps are in the feature dict in training mode only, under their own names ("lateral4", "merged4", "res4").
    neck.EXTRA_OUTPUTS = []

    # ALIGN "deform": FaPN's feature alignment module (paper, Section 3.1).
    neck.DEFORM = CN()
    neck.DEFORM.GROUPS = 8  # number of offset groups of the deformable convolution; the paper's text describes 1
    neck.DEFORM.UPSAMPLE = "bilinear"  # how the coarse map is brought to the fine size first; Appendix B: "nearest"
    neck.DEFORM.OFFSET_GAIN = 2.0  # factor on the upsampled map where offsets are predicted; the paper's text has 1
    # What computes the deformable convolution: "auto" (this project's kernels where they can run), "torchvision", or
    # "triton" (on CUDA this project's kernels or an error). Empty: the environment variable FAPN_DEFORM_CONV decides.
    neck.DEFORM.BACKEND = ""

    # CONTEXT "residual_augmentation": AugFPN, Section 3.2 and Table 4.
    neck.RESIDUAL_AUGMENTATION = CN()
    # "ratio": ratio-invariant average pooling; "psp": average pooling to fixed sizes; "gap", "gmp": global average or
    # global maximum.
    neck.RESIDUAL_AUGMENTATION.POOLING = "ratio"
    # The paper's alphas, for "ratio": height and width of the pooled map, divided by those of the map.
    neck.RESIDUAL_AUGMENTATION.RATIOS = [0.1, 0.2, 0.3]
    neck.RESIDUAL_AUGMENTATION.SIZES = [1, 2, 3]  # for "psp": height and width of the pooled maps in pixels
    # How the pooled maps are joined: "asf", "sum", "max" or "acf", as in MODEL.SOFT_ROI_SELECTION.FUSION.
    neck.RESIDUAL_AUGMENTATION.FUSION = "asf"

    # ALIGN "flow": SFNet's flow alignment module (paper, Section 3.2).
    neck.FLOW = CN()
    # Number of fine pixels that one unit of flow moves a sample. The paper's text has 1.0. Networks learn with either.
    neck.FLOW.UNIT = 0.5
    # Whether upsampling and warping use align_corners. The authors' code of 2019 has False for the upsampling.
    neck.FLOW.ALIGN_CORNERS = True

    # CONTEXT "ppm": pyramid pooling, the context module of SFNet.
    neck.PYRAMID_POOLING = CN()
    neck.PYRAMID_POOLING.BINS = [1, 2, 3, 6]  # number of cells along each side, one entry per branch
    neck.PYRAMID_POOLING.KERNEL_SIZE = 1  # kernel of the convolution that joins the branches; PSPNet has 3
    neck.PYRAMID_POOLING.DROPOUT = 0.1  # probability that a channel is dropped
    neck.PYRAMID_POOLING.ALIGN_CORNERS = True  # whether the upsampling of pooled maps uses align_corners
    # CONTEXT "aspp", "dense_aspp", "non_local": SFNet, Table 3. The paper states no widths; these come near its GFLOPs.
    neck.ASPP = CN()
    neck.ASPP.CHANNELS = 512  # channels of each branch
    neck.ASPP.DILATIONS = [6, 12, 18, 24]  # in pixels of the map, one entry per branch
    neck.ASPP.DROPOUT = 0.1  # probability that a channel is dropped
    neck.DENSE_ASPP = CN()
    neck.DENSE_ASPP.REDUCED = 256  # channels that the bottom-up map is reduced to first
    neck.DENSE_ASPP.CHANNELS = 512  # channels of the 1x1 convolution before each dilated convolution
    neck.DENSE_ASPP.GROWTH = 512  # channels that each dilated convolution adds
    neck.DENSE_ASPP.DILATIONS = [3, 6, 12, 18, 24]  # in pixels of the map
    neck.DENSE_ASPP.DROPOUT = 0.1  # probability that a channel is dropped
    neck.NON_LOCAL = CN()
    neck.NON_LOCAL.CHANNELS = 1024  # channels of the map in the non-local block
    neck.NON_LOCAL.KEY_CHANNELS = 128  # channels of the keys and queries
    neck.NON_LOCAL.HIDDEN = 512  # channels of the convolution that joins the block's output with the bottom-up map
    neck.NON_LOCAL.DROPOUT = 0.1  # probability that a channel is dropped
    return neck


def _add_backbones(cfg: CN) -> None:
    """Keys of fapn_d2.backbones. All its builders read MODEL.BACKBONE.FREEZE_AT."""
    # MODEL.NECK.BOTTOM_UP "build_timm_backbone": any network of timm with maps of strides 4 to 32.
    cfg.MODEL.TIMM = CN()
    # The name in timm. With MODEL.WEIGHTS "timm://<name>" training starts from timm's weights.
    cfg.MODEL.TIMM.NAME = "mobilenetv2_100"
    # "BN": batch normalisation as timm builds it; "SyncBN": statistics over all processes; "EvalBN": the loaded
    # statistics are kept, scale and shift are trained (mmdetection); "FrozenBN": both are kept (Detectron2).
    cfg.MODEL.TIMM.NORM = "BN"
    # "build_swin_backbone": a Swin Transformer of timm, computed as the official segmentation code computes it.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.3  # stochastic depth of the last block; 0 in the first

    # "build_deep_stem_resnet_backbone" reads these keys and those of Detectron2's MODEL.RESNETS that its docstring
    # names.
    cfg.MODEL.RESNETS.STEM_CEIL_MODE = False  # whether the stem's max-pooling rounds sizes up: 257 for 1024 pixels
    cfg.MODEL.RESNETS.OUTPUT_STRIDE = 32  # stride of res5; with 16 or 8, dilation replaces the last one or two strides
    # Dilation of the 3x3 convolutions in res2 to res5, in basic blocks of the second one. The strides do not change.
    # [1, 1, 2, 4] is "variant D" of the authors' code of SFNet from 2020, which its checkpoints need.
    cfg.MODEL.RESNETS.CONV2_DILATION = [1, 1, 1, 1]
    # "build_shufflenetv2_backbone".
    cfg.MODEL.SHUFFLENETV2 = CN()
    cfg.MODEL.SHUFFLENETV2.WIDTH = 1.5  # multiplier of the channels: 0.5, 1.0, 1.5 or 2.0
    cfg.MODEL.SHUFFLENETV2.NORM = "SyncBN"  # or "BN", "FrozenBN"
    cfg.MODEL.SHUFFLENETV2.OUT_FEATURES = ["stage2", "stage3", "conv5"]  # any of "stem", "stage2" to "stage4", "conv5"
    cfg.MODEL.SHUFFLENETV2.CEIL_MODE = False  # whether the max-pooling rounds sizes up


def _add_heads(cfg: CN) -> None:
    """Keys of fapn_d2.heads."""
    # MODEL.ROI_HEADS.NAME "AugFPNROIHeads", AugFPN, Section 3.3: every region is pooled from every level.
    cfg.MODEL.SOFT_ROI_SELECTION = CN()
    # How the features of the levels are joined: "asf" (a weight per level and position), "acf" (a weight per level and
    # channel), "sum", "max" (Table 5). "none": a region is pooled from one level, chosen by its size, as in FPN.
    cfg.MODEL.SOFT_ROI_SELECTION.FUSION = "asf"
    cfg.MODEL.SOFT_ROI_SELECTION.MASK = True  # whether the mask head also has it, with separate weights

    # AugFPN, Section 3.1: auxiliary losses on the laterals in training, for MODEL.ROI_HEADS.NAME "AugFPNROIHeads" and
    # MODEL.META_ARCHITECTURE "ConsistentRetinaNet" and "ConsistentFCOS". The auxiliary heads are built like those of
    # MODEL.ROI_BOX_HEAD and MODEL.ROI_MASK_HEAD. Regions are sampled as MODEL.ROI_HEADS says.
    cfg.MODEL.CONSISTENT_SUPERVISION = CN()
    # "all_levels": every region is supervised on every level. "single_level": on the level that FPN's rule gives it
    # (Table 3). "none": there are no losses and no parameters; such a network still loads weights that were trained
    # with them.
    cfg.MODEL.CONSISTENT_SUPERVISION.MODE = "all_levels"
    # The paper's lambda: the factor on the loss of each level. The losses are summed over the levels.
    cfg.MODEL.CONSISTENT_SUPERVISION.WEIGHT = 0.25
    # Whether there is also an auxiliary mask head, if the network has a mask head.
    cfg.MODEL.CONSISTENT_SUPERVISION.MASK = True
    # One-stage detectors have no region proposals; in training their own detections are used as regions.
    cfg.MODEL.CONSISTENT_SUPERVISION.PRE_NMS_TOPK = 2000  # most positions per level, by the score of their best class
    cfg.MODEL.CONSISTENT_SUPERVISION.SCORE_THRESH = 0.01  # lowest score of a class
    cfg.MODEL.CONSISTENT_SUPERVISION.NMS_THRESH = 0.7  # IoU above which NMS removes a box, within each class
    cfg.MODEL.CONSISTENT_SUPERVISION.POST_NMS_TOPK = 1000  # most regions per image

    _add_semantic_fpn(cfg)
    # MODEL.SEM_SEG_HEAD.NAME "AlignedDecoderHead" (SFNet) and "SingleLevelHead" (FCN, real-time FaPN). Of Detectron2's
    # keys they read IN_FEATURES, NUM_CLASSES, CONVS_DIM (0: no hidden layer), NORM, LOSS_WEIGHT and IGNORE_VALUE.
    head = cfg.MODEL.SEM_SEG_HEAD
    head.ALIGN_CORNERS = True  # whether all resampling uses align_corners, that of the logits too
    # How coarser levels are brought to the finest size before they are concatenated: "bilinear", or "flow" as in
    # SFNet's text. The GFLOPs and parameters that SFNet prints are those of "bilinear".
    head.FUSION_ALIGN = "bilinear"
    head.LOSS = "cross_entropy"  # or "ohem": the mean over hard pixels only
    # "ohem": a pixel is hard if the probability of its true class is at most THRESHOLD. If there are fewer hard pixels
    # than the greatest of the other three numbers, that many of the hardest pixels are used.
    # SFNet's text: THRESHOLD 0.0, KEEP_FRACTION 0.1. Its code: THRESHOLD 0.7 with MIN_KEPT_PER_IMAGE 100000 (2019,
    # where it is 9.5 % of a crop), or with MIN_KEPT 10000 or 100000 (2020).
    head.OHEM = CN()
    head.OHEM.THRESHOLD = 0.7
    head.OHEM.KEEP_FRACTION = 0.1  # fraction of the pixels that are not ignored
    head.OHEM.MIN_KEPT = 0  # number of pixels in a batch of one process
    head.OHEM.MIN_KEPT_PER_IMAGE = 0  # number of pixels per image of that batch
    # Classifiers with losses of their own on inner maps, in training: any map of the backbone, and any map that
    # MODEL.NECK.EXTRA_OUTPUTS adds ("merged4", "res4"). The losses are called "loss_sem_seg_<map>".
    head.DEEP_SUPERVISION = CN()
    head.DEEP_SUPERVISION.FEATURES = []
    head.DEEP_SUPERVISION.WEIGHTS = []  # factors on the losses, one for each of FEATURES; empty: 1.0
    head.DEEP_SUPERVISION.LOSSES = []  # as LOSS, one for each of FEATURES; empty: LOSS
    # Channels of the hidden convolution, one entry for each of FEATURES; empty: as many as the map has.
    head.DEEP_SUPERVISION.CHANNELS = []
    head.DEEP_SUPERVISION.DROPOUT = 0.1  # probability that a channel is dropped
    _add_mask_former(cfg)


def _add_semantic_fpn(cfg: CN) -> None:
    """Keys of MODEL.SEM_SEG_HEAD.NAME "SemanticFPNHead", which also reads all keys of Detectron2's SemSegFPNHead.

    With the defaults it is Detectron2's head.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    # How a level reaches COMMON_STRIDE: "steps": a convolution before each doubling of its size; "once": two
    # convolutions, then one resampling, as in the early version of Panoptic FPN's Table 1b.
    head.UPSAMPLING = "steps"
    head.JOIN = "sum"  # how the levels become one map; or "concat" (Panoptic FPN, Table 1d)
    # The channels of the pyramid's maps that are read: [first, one past the last]. Empty: all of them.
    head.CHANNELS = []


def _add_mask_former(cfg: CN) -> None:
    """Keys of fapn_d2.heads.mask_former; names and defaults are those of the official code."""
    # MODEL.SEM_SEG_HEAD.NAME "MaskFormerHead". Of the other keys of this section it reads IN_FEATURES (bottom-up maps,
    # finest first), NUM_CLASSES, IGNORE_VALUE, CONVS_DIM and NORM (of the pixel decoder).
    head = cfg.MODEL.SEM_SEG_HEAD
    # "MaskFormerPixelDecoder": each level receives the output of the coarser level; MODEL.NECK.ALIGN is "nearest" in
    # MaskFormer and "deform" in FaPN. "PyramidPixelDecoder": the finest level of the pyramid that MODEL.FPN and
    # MODEL.NECK describe.
    head.PIXEL_DECODER_NAME = "MaskFormerPixelDecoder"
    head.MASK_DIM = 256  # channels of the embedding of pixels
    node = cfg.MODEL.MASK_FORMER = CN()
    node.DEEP_SUPERVISION = True  # losses after every layer of the decoder, not only after the last
    node.NO_OBJECT_WEIGHT = 0.1  # weight of the class "no object" in the cross entropy
    # Factors on the mask losses and on the mask costs in matching. The factor on the classes is 1.
    node.MASK_WEIGHT = 20.0
    node.DICE_WEIGHT = 1.0
    node.NUM_OBJECT_QUERIES = 100
    node.HIDDEN_DIM = 256  # channels of the transformer
    node.NHEADS = 8
    node.DIM_FEEDFORWARD = 2048
    node.DROPOUT = 0.1
    node.ENC_LAYERS = 0
    node.DEC_LAYERS = 6
    node.PRE_NORM = False  # whether the inputs of branches are normalised instead of their sums
    node.TRANSFORMER_IN_FEATURE = "res5"  # bottom-up map that the queries attend to
    node.ENFORCE_INPUT_PROJ = False  # a 1x1 convolution of this map even if it has HIDDEN_DIM channels
    node.SIZE_DIVISIBILITY = 32  # images are padded to a multiple of this; the bottom-up network may need more
    node.TEST = CN()
    # "PanopticMaskFormer": lowest score of a query; smallest fraction of its mask that a segment must keep.
    node.TEST.OBJECT_MASK_THRESHOLD = 0.0
    node.TEST.OVERLAP_THRESHOLD = 0.0
    # Whether masks are resized to the image before they are weighted by classes and summed. Otherwise the sums are.
    node.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False


def _add_meta_arch(cfg: CN) -> None:
    """Keys of fapn_d2.meta_arch."""
    # MODEL.META_ARCHITECTURE "FCOS": Detectron2's FCOS with its defaults. Detectron2 itself builds it from Python only.
    cfg.MODEL.FCOS = CN()
    cfg.MODEL.FCOS.NUM_CLASSES = 80
    cfg.MODEL.FCOS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.FCOS.NUM_CONVS = 4  # number of 3x3 convolutions before each of the two predictors
    cfg.MODEL.FCOS.NORM = "GN"
    cfg.MODEL.FCOS.PRIOR_PROB = 0.01  # score of every class at the start of training
    # Points within this many strides of an object's centre are candidates for it. 0: all points inside its box are.
    cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS = 1.5
    cfg.MODEL.FCOS.FOCAL_LOSS_ALPHA = 0.25
    cfg.MODEL.FCOS.FOCAL_LOSS_GAMMA = 2.0
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.2  # lowest sqrt(class score * centerness) of a detection
    cfg.MODEL.FCOS.TOPK_CANDIDATES_TEST = 1000  # most candidates per level before NMS
    cfg.MODEL.FCOS.NMS_THRESH_TEST = 0.6
    _add_mask_proposals(cfg)
    _add_panoptic_fcn(cfg)
    _add_panoptic_fpn(cfg)


def _add_mask_proposals(cfg: CN) -> None:
    """Keys of MODEL.PROPOSAL_GENERATOR.NAME "MaskProposals", in MODEL.META_ARCHITECTURE "MaskProposalNetwork": FPN,
    Section 6 and Appendix A. The defaults are the paper's numbers."""
    node = cfg.MODEL.MASK_PROPOSALS = CN()
    node.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    # Side of each window in cells, odd. A window of 5 cells on a level of stride s is for objects of 8 s pixels; other
    # windows are for objects that are larger or smaller in proportion, to the nearest half octave.
    node.WINDOWS = [5, 7]
    node.HIDDEN_DIM = 512  # width of the hidden layer of each window
    node.MASK_SIZE = 14  # number of cells along each side of a mask; 28 is the paper's "2x mask resolution"
    node.BATCH_SIZE_PER_IMAGE = 128  # number of positions that are sampled per image in training
    node.POSITIVE_FRACTION = 0.25  # largest fraction of them that predicts an object
    node.MASK_WEIGHT = 10.0  # factor on the loss of masks; the loss of scores has the factor 1
    # Objects with a smaller mask (in square pixels of the resized image) or a shorter side (in its pixels) are no
    # targets. The paper states no limits; these are DeepMask's.
    node.LEAST_AREA = 100.0
    node.LEAST_SIDE = 5.0
    node.TOPK_TEST = 1000  # most proposals per image, of all levels and windows; there is no suppression
    # Probability from which on a pixel belongs to a mask. The paper does not state it; DeepMask's evaluation has 0.2.
    node.MASK_THRESH_TEST = 0.2


def _add_panoptic_fpn(cfg: CN) -> None:
    """Keys of MODEL.META_ARCHITECTURE "TwoTaskPanopticFPN", which also reads all keys of Detectron2's PanopticFPN.

    The weight of the instance losses is PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT, that of the semantic loss
    SEM_SEG_HEAD.LOSS_WEIGHT. A weight of 0 builds the network of the other task alone.
    """
    node = cfg.MODEL.PANOPTIC_FPN
    # Whether the losses of the two branches take turns: instances in even iterations, classes of pixels in odd ones.
    node.ALTERNATE = False
    # The channels of the pyramid's maps that the instance branch reads: [first, one past the last]. Empty: all. Its
    # heads are built for that many. MODEL.SEM_SEG_HEAD.CHANNELS is the same for the semantic branch.
    node.INSTANCE_CHANNELS = []
    # Semantic classes that stand for things. They never fill what objects leave free. [0] in COCO, where class 0 stands
    # for all things; [11, ..., 18] in Cityscapes, where each kind of things has a class.
    node.COMBINE.DROPPED_CLASSES = [0]


def _add_panoptic_fcn(cfg: CN) -> None:
    """Keys of MODEL.META_ARCHITECTURE "PanopticFCN" (Li et al., CVPR 2021). The defaults are its official code's.

    Masks are made on a map of stride 4. In MODEL.SEM_SEG_HEAD the keys IN_FEATURES, CONVS_DIM, COMMON_STRIDE (4) and
    NORM describe this map. NUM_CLASSES there is the number of classes of regions plus one: the first class stands for
    all objects. IGNORE_VALUE is read too. MODEL.PANOPTIC_FPN.COMBINE joins objects and regions; the official code has
    INSTANCES_CONFIDENCE_THRESH 0.2.
    """
    node = cfg.MODEL.PANOPTIC_FCN = CN()
    node.NUM_CLASSES = 80  # number of classes of objects
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Smallest and largest size of the objects on each of IN_FEATURES: square root of the box area, in pixels of the
    # input. Ranges may overlap; an object is on every level whose range contains its size.
    node.OBJECT_SCALES = [[1, 64], [32, 128], [64, 256], [128, 512], [256, 2048]]
    # Hidden layers of the heads: 3x3 convolutions. COORD adds two channels of coordinates to their input, DEFORM makes
    # them modulated deformable convolutions. KERNEL_HEAD.CONVS_DIM is also the width of the kernel map, and
    # FEATURE_ENCODER.CONVS_DIM is the width of kernels.
    for name, channels, norm, coordinates, deformable in (
        ("POSITION_HEAD", 256, "GN", False, True),
        ("KERNEL_HEAD", 256, "GN", True, False),
        ("FEATURE_ENCODER", 64, "", True, False),
    ):
        head = node[name] = CN()
        head.NUM_CONVS = 3
        head.CONVS_DIM = channels
        head.NORM = norm
        head.COORD = coordinates
        head.DEFORM = deformable
    node.POSITION_HEAD.BIAS_VALUE = -2.19  # initial bias of the predictors, for scores of 0.1
    # Where the centre of an object is: "mass", the mean position of its mask, or "box", the middle of its box.
    node.CENTER = "mass"
    node.MIN_OVERLAP = 0.7  # the IoU that determines the radius of the Gaussian around a centre
    node.GAUSSIAN_SIGMA = 3.0  # the Gaussian's diameter divided by its standard deviation; CenterNet has 6
    # Number of positions per object and level whose kernels are trained: the positions with the best scores. Official:
    # 7, and 5 in the configs for images of 600 pixels.
    node.POS_NUM = 7
    node.POSITION_WEIGHT = 1.0  # factor on loss_pos_th and loss_pos_st
    node.SEGMENT_WEIGHT = 3.0  # factor on loss_seg_th and loss_seg_st
    node.FOCAL_LOSS_ALPHA = 0.25
    node.FOCAL_LOSS_GAMMA = 2.0
    # Inference. The official "fast" configs, whose numbers FaPN's tables have, set 0.2 and 0.1.
    node.THING_THRESH_TEST = 0.05  # lowest score of an object's centre
    node.STUFF_THRESH_TEST = 0.05  # lowest mean score of a region on a level
    # Side, in cells, of the square over which centre scores are averaged, one entry for each of IN_FEATURES; odd.
    node.SMOOTHING_TEST = [3, 3, 3, 5, 5]
    node.SIMILARITY_THRESH_TEST = 0.9  # two kernels of a class are one object if their cosine is at least this
    node.MASK_THRESH_TEST = 0.4  # lowest score of an object's pixel
    node.SCORE_THRESH_TEST = 0.05  # lowest score of an object: the score of its centre times the score of its mask
    node.TOPK_TEST = 100  # most objects per image; each level provides at most half as many candidates


def _add_data(cfg: CN) -> None:
    """Keys of fapn_d2.data."""
    # Your own data sets: name -> {KIND, IMAGES, ...}. data/datasets/custom.py lists the kinds and their fields;
    # datasets/README.md has examples.
    cfg.DATASETS.CUSTOM = CN(new_allowed=True)
    # How many images may be left out of training because one of their files is missing, broken or of the wrong size.
    # Each is named in a warning and listed in OUTPUT_DIR/bad_images.txt. One more stops the run; 0 stops at the first.
    # Evaluation never leaves an image out.
    cfg.INPUT.MAX_BAD_IMAGES = 0
    # Training on crops of one size from randomly scaled images, as for real-time segmentation (FaPN's Table 8, SFNet).
    # If enabled, it replaces INPUT.{MIN,MAX}_SIZE_TRAIN and INPUT.CROP.
    cfg.INPUT.SCALE_CROP = CN()
    cfg.INPUT.SCALE_CROP.ENABLED = False
    cfg.INPUT.SCALE_CROP.SCALES = (0.75, 2.0)  # factors on the original size
    cfg.INPUT.SCALE_CROP.SAMPLING = "range"  # SCALES is (least, greatest); "choice": SCALES lists all factors
    cfg.INPUT.SCALE_CROP.SIZE = (1024, 1024)  # (H, W) of the crop in pixels; smaller images are padded on all sides
    # What the "instances" of training samples contain. "": the record's objects. "semantic": one region for each class
    # in the semantic labels. "panoptic": the objects, and one region for each stuff class in the labels; stuff classes
    # are numbered after those of things. MaskFormer needs "semantic" or "panoptic".
    cfg.INPUT.REGIONS = ""
    # In training, images and labels are padded at the bottom and on the right to a multiple of this many pixels, with
    # grey (128) and IGNORE_VALUE. Crops of this size or smaller become exactly this large. Below 1: no padding.
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    # These two keys are PointRend's. They are added for configs without PointRend's add_pointrend_config.
    # Largest fraction of a crop that one class may fill; up to ten crops are tried. 1.0: any crop is taken.
    if "SINGLE_CATEGORY_MAX_AREA" not in cfg.INPUT.CROP:
        cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Random brightness, contrast, saturation and hue, as in the training of SSD.
    if "COLOR_AUG_SSD" not in cfg.INPUT:
        cfg.INPUT.COLOR_AUG_SSD = False
    # DATALOADER.SAMPLER_TRAIN "ClassUniformSampler", for semantic labels: every class gets equally many crops that
    # contain it, as in the authors' code of SFNet from 2020.
    cfg.DATALOADER.CLASS_UNIFORM = CN()
    # The fraction of the samples that are drawn by class. The others are images in random order.
    cfg.DATALOADER.CLASS_UNIFORM.FRACTION = 0.5
    # Images are divided into squares of this side, in pixels. Each square has one point for each class in it.
    cfg.DATALOADER.CLASS_UNIFORM.TILE = 1024
    # Where the crop lies: "around": anywhere, if it contains the point; "centred": with the point in its middle, as far
    # as the border of the image allows.
    cfg.DATALOADER.CLASS_UNIFORM.PLACE = "around"
    # Folder for the list of points, which several runs may share. The list is made once, and again when labels change.
    # Empty: OUTPUT_DIR.
    cfg.DATALOADER.CLASS_UNIFORM.CACHE = ""


def _add_engine(cfg: CN) -> None:
    """Keys of fapn_d2.engine and fapn_d2.evaluation."""
    # Longest wait of a process for the others, in minutes. A process that is lost or hangs ends the run after that.
    cfg.DISTRIBUTED = CN()
    cfg.DISTRIBUTED.TIMEOUT = 10.0  # in an iteration
    cfg.DISTRIBUTED.TIMEOUT_EVAL = 120.0  # in start-up and in evaluations, where one process may work for all
    # How many of the newest checkpoints model_<iteration>.pth are kept. 0: all. model_final and model_best always are.
    cfg.SOLVER.CHECKPOINT_KEEP = 0
    # The score that decides which checkpoint is kept as model_best.pth, as in metrics.json: "bbox/AP", "sem_seg/mIoU".
    # It is compared at each TEST.EVAL_PERIOD and at the end. Empty: none.
    cfg.TEST.BEST_METRIC = ""
    cfg.TEST.BEST_MODE = "max"  # or "min": lower is better
    # Training ends after this many evaluations in a row without a better BEST_METRIC. 0: never.
    cfg.SOLVER.EARLY_STOP = 0
    # Names of parameters, or prefixes of names ("roi_heads.box_predictor"), that training initialises and does not load
    # from MODEL.WEIGHTS: for a trained network that is fine-tuned on other classes. Evaluation ignores this key.
    cfg.MODEL.WEIGHTS_SKIP = []
    # Names of modules or parameters ("backbone", "roi_heads.box_predictor") that training does not change, with all
    # that is below them. Norms in them keep their statistics. MODEL.BACKBONE.FREEZE_AT counts stages and acts as well.
    cfg.MODEL.FREEZE_PARTS = []
    # Whether convolutions keep channels as the innermost dimension, which is faster in half precision on tensor cores.
    cfg.MODEL.CHANNELS_LAST = False
    # torch.compile of the backbone (bottom-up network and pyramid). "dynamic": one program for all image sizes, for
    # detectors; "static": one program per size, eight at most, for training on crops; "none": not compiled.
    cfg.MODEL.COMPILE = "none"
    # What computes the scores. "fast": this project's code and, for COCO, the package hotcoco if it is installed.
    # "official": pycocotools, panopticapi, cityscapesscripts. Both give the same scores (tests/evaluation); "official"
    # takes minutes.
    cfg.TEST.BACKEND = "fast"
    # Whether predictions are kept below OUTPUT_DIR, so that tools/submission.py can make an archive for a test server:
    # in the servers' formats for Cityscapes and panoptic data, as PNGs for classes of pixels. COCO's boxes and masks
    # are always kept.
    cfg.TEST.KEEP_PREDICTIONS = False
    # Whether proposals are scored by their average recall (AR). Proposals of splits without annotations never are.
    cfg.TEST.PROPOSAL_RECALL = True
    # Which objects an archive for a test server contains, and with which precision (tools/submission.py).
    cfg.TEST.SUBMISSION = CN()
    cfg.TEST.SUBMISSION.MAX_PER_IMAGE = 100  # most objects per image, by their scores; COCO's server reads 100
    cfg.TEST.SUBMISSION.SCORE_THRESH = 0.0  # objects with a lower score are left out
    cfg.TEST.SUBMISSION.BOX_DECIMALS = 1  # decimals of box coordinates, in pixels
    cfg.TEST.SUBMISSION.SCORE_DIGITS = 5  # significant digits of scores
    # Widths in pixels of bands around the outlines in the ground truth; mIoU is also reported within each band. It is n
    # of FaPN's Table 2, which has [3, 5, 8, 12]. Empty: no such scores.
    cfg.TEST.BOUNDARY_WIDTHS = []
    # How networks that only classify pixels are tested on an image. With the defaults the network runs once.
    cfg.TEST.SEM_SEG = CN()
    cfg.TEST.SEM_SEG.MODE = "whole"  # or "slide": overlapping windows, whose scores are averaged where they overlap
    # (H, W) of the windows in pixels of the scaled image. Smaller images are padded at the bottom and on the right.
    cfg.TEST.SEM_SEG.CROP_SIZE = (864, 864)
    # Distance between windows as a fraction of their size. The last window is moved inwards to the image's border.
    cfg.TEST.SEM_SEG.STRIDE = 0.667
    # Whether windows grow with scales above 1, so that their number stays the same, as in SFNet's code of 2020.
    cfg.TEST.SEM_SEG.CROP_GROWS = False
    cfg.TEST.SEM_SEG.SCALES = [1.0]  # factors on the image size that INPUT.MIN_SIZE_TEST gives; one pass per factor
    cfg.TEST.SEM_SEG.FLIP = False  # whether each scale is also tested on the mirror image
    cfg.TEST.SEM_SEG.AVERAGE = "logits"  # what is averaged over windows, scales and mirror images; or "probabilities"
    cfg.TEST.SEM_SEG.BATCH = 4  # number of windows that go through the network together
    # Device that holds the averages: up to three maps of the image's size with one number per class. Use "cpu" where
    # they do not fit on the GPU. Empty: the device of the model.
    cfg.TEST.SEM_SEG.ACCUMULATE = ""
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "AdamW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # factor on the rate of parameters in a module called "backbone"
    # Weight decay of embeddings: learnt queries, and tables of positions in Swin. None: WEIGHT_DECAY.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = None
    # Precision under SOLVER.AMP.ENABLED: "float16" (CUDA only, with loss scaling), "bfloat16", or "auto": float16 on
    # CUDA, as in Detectron2, and bfloat16 on the CPU.
    cfg.SOLVER.AMP.DTYPE = "auto"
    # LR_SCHEDULER_NAME "WarmupPolyLR": lr = BASE_LR * max((1 - iteration / MAX_ITER)^POWER, CONSTANT_ENDING).
    # "WarmupTimesPolyLR": times a linear warm-up; the warm-up of the other one is a line to the value at its end.
    # Names and defaults are those of detectron2.projects.deeplab, so that both can add them to one config.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
