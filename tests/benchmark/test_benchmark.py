"""The benchmark: how it measures, what it prints and keeps, and the tool from its command line."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fapn_d2.benchmark import measure as benchmark
from fapn_d2.benchmark.goals import Goal, Trial, judge, trials
from fapn_d2.benchmark.inputs import SETTINGS, build_random_network, random_batch
from fapn_d2.benchmark.launch_sweep import neighbours
from fapn_d2.benchmark.mask_losses import mask_loss_comparisons
from fapn_d2.benchmark.measure import Comparison, Measurement, measure, peak_memory
from fapn_d2.benchmark.networks import neck_comparisons
from fapn_d2.benchmark.operators import operator_comparisons
from fapn_d2.benchmark.options import Options
from fapn_d2.benchmark.speed import paper_row, speed_comparisons
from fapn_d2.benchmark.stages import StageTimer, stage_measurements, timed_stages
from fapn_d2.benchmark.tables import speed_table, stage_table, table, write_json
from fapn_d2.config.loading import load_config
from fapn_d2.engine.provenance import describe_machine
from fapn_d2.layers.deform_conv.backend import get_backend
from fapn_d2.layers.deform_conv.cuda_launch import Launch

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
CONFIGS = tuple(str(REPOSITORY / f"configs/fapn/semantic_R_18_{neck}_camvid.yaml") for neck in ("FPN", "FaPN"))
NARROW = ("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32")


def tool():
    spec = importlib.util.spec_from_file_location("benchmark_tool", REPOSITORY / "tools" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(**changes) -> Options:
    defaults = {"device": CPU, "images": ((64, 96),), "batches": (1,), "dtypes": ("float32",), "passes": ("forward",)}
    return Options(**{**defaults, **changes})


def test_alternatives_run_in_turns_and_give_medians(monkeypatch):
    order, clock = [], iter([9.0, 1.0, 4.0, 2.0, 5.0, 3.0, 8.0, 4.0, 7.0, 5.0])

    def fake_time(call, device):
        call()
        return next(clock)

    monkeypatch.setattr(benchmark, "_time", fake_time)
    monkeypatch.setattr(benchmark, "peak_memory", lambda call, device: 3.0)
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    found = measure(Comparison("ops", {"dtype": "float32"}, "a", calls, items=2), CPU, repeats=5, warmup=2)
    assert order == ["a", "a", "b", "b", *"ababababab"]
    assert [(m.name, m.median_ms, m.iqr_ms, m.runs, m.items) for m in found] == [
        ("a", 7000.0, 3000.0, 5, 2),  # 4, 5, 7, 8, 9
        ("b", 3000.0, 2000.0, 5, 2),  # 1, 2, 3, 4, 5
    ]


def test_what_does_not_fit_is_left_out_and_named():
    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore lines")

    comparison = Comparison("ops", {}, "small", {"small": lambda: None, "large": too_large})
    found = measure(comparison, CPU, repeats=1, warmup=1)
    assert [m.name for m in found] == ["small"]
    assert "large  CUDA out of memory." in table(comparison, found)


def test_peak_memory_sees_what_a_call_holds_for_a_moment():
    if peak_memory(lambda: None, CPU) is None:
        pytest.skip("this system does not tell a process's peak")
    assert 90 < peak_memory(lambda: torch.ones(96 * 2**18).sum(), CPU) < 140
    assert peak_memory(lambda: torch.ones(2**10).sum(), CPU) < 20


def test_table_and_json(tmp_path):
    comparison = Comparison("neck", {"image": "64x96", "dtype": "bf16"}, "FPN", {"FPN": None, "FaPN": None}, items=2)
    found = [
        Measurement("neck", comparison.setting, "FPN", 4.0, 0.5, 7, 10.0, 2),
        Measurement("neck", comparison.setting, "FaPN", 6.0, 0.25, 7, None, 2),
    ]
    lines = table(comparison, found).splitlines()
    assert lines[0] == "neck: image 64x96, dtype bf16"
    assert lines[1].split() == ["median", "ms", "IQR", "images/s", "peak", "MiB", "x", "time", "x", "memory"]
    assert lines[2].split() == ["FPN", "4.000", "0.500", "500.0", "10.0", "1.00", "1.00"]
    assert lines[3].split() == ["FaPN", "6.000", "0.250", "333.3", "-", "1.50", "-"]

    machine = describe_machine(CPU)
    write_json(str(tmp_path / "new" / "numbers.json"), machine, found)
    kept = json.loads((tmp_path / "new" / "numbers.json").read_text())
    assert kept["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert kept["threads"] == torch.get_num_threads() and kept["device"]
    assert kept["measurements"][1]["median_ms"] == 6.0 and kept["measurements"][1]["setting"]["dtype"] == "bf16"


def test_speed_table():
    calls = {"float32": None, "bf16, compiled": None, "fp16": None}
    setting = {"network": "net", "image": "64x96", "paper_row": "sfnet.t6.x", "paper_fps": 20.0}
    comparison = Comparison("speed", setting, "float32", calls, skipped={"fp16": "no memory"})
    found = [
        Measurement("speed", setting, "float32", 50.0, 1.0, 7, 10.0),
        Measurement("speed", setting, "bf16, compiled", 10.0, 0.5, 7, None),
    ]
    lines = speed_table(comparison, found).splitlines()
    assert lines[0] == "speed: network net, image 64x96 (paper: sfnet.t6.x)"
    header = ["fps", "median ms", "IQR", "peak MiB", "x fps", "paper, its GPU", "x paper"]
    assert re.split(r"\s{2,}", lines[1].strip()) == header
    assert lines[2].split() == ["float32", "20.0", "50.000", "1.000", "10.0", "1.00", "20.0", "1.00"]
    assert lines[3].split() == ["bf16,", "compiled", "100.0", "10.000", "0.500", "-", "5.00", "20.0", "5.00"]
    assert lines[4].split() == ["fp16", "no", "memory"]
    setting |= {"paper_row": None, "paper_fps": None}
    lines = speed_table(comparison, found).splitlines()
    assert lines[0] == "speed: network net, image 64x96" and lines[3].split()[-3:] == ["5.00", "-", "-"]


@pytest.mark.parametrize(
    ("config", "overrides", "size", "row", "fps"),
    [
        ("sfnet/semantic_R_18_SFNet_cityscapes", (), (1024, 2048), "sfnet.t6.sfnet_r18", 18),
        ("fapn/realtime_R_18_FaPN_cityscapes", (), (512, 1024), "fapn.t8a.fapn_r18_512", 142),
        ("fapn/realtime_R_18_FaPN_cityscapes", (), (768, 1536), "fapn.t8a.fapn_r18_768", 78.1),
        ("fapn/realtime_R_18_FaPN_coco_stuff", (), (640, 640), "fapn.t8b.fapn_r18", 154),
        ("sfnet/semantic_DF2_SFNet_camvid", (), (360, 480), "sfnet.t10.sfnet_df2", 153.8),
        (
            "sfnet/semantic_DF2_SFNet_camvid",
            ("MODEL.NECK.ALIGN", "bilinear_corners"),
            (360, 480),
            "sfnet.t10.wo_fam_df2",
            155.1,
        ),
        ("sfnet/semantic_R_18_SFNet_cityscapes", (), (512, 1024), None, None),  # not printed
        ("sfnet/semantic_R_18_SFNet_cityscapes", ("MODEL.FPN.OUT_CHANNELS", "64"), (1024, 2048), None, None),
    ],
)
def test_the_papers_speed_is_that_of_the_same_network_and_size(config, overrides, size, row, fps):
    path = str(REPOSITORY / f"configs/{config}.yaml")
    cfg = load_config(path, [*SETTINGS, *overrides, "MODEL.DEVICE", "cpu"])
    found = paper_row(path, cfg, size)
    assert (found and found.id) == row and (found and found.paper["FPS"]) == fps


def test_speed_times_every_way_on_the_same_images():
    chosen = options(
        configs=(CONFIGS[1:],), overrides=NARROW, images=((60, 90),), batches=(2,), dtypes=("float32", "bf16"),
        channels_last=True, fold_norms=True,
    )  # fmt: skip
    (comparison,) = speed_comparisons(chosen)
    assert list(comparison.alternatives) == [
        "float32",
        "float32, channels-last, norms folded",
        "bf16, channels-last, norms folded",
    ]
    plain, folded, half = (call() for call in comparison.alternatives.values())
    assert plain.shape == (2, 11, 60, 90)  # of the image, not of its padding
    torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-3)
    assert (half.float() - plain).norm() < 0.05 * plain.norm()
    (comparison,) = speed_comparisons(replace(chosen, timed="host"))
    labels = comparison.alternatives["float32"]()
    assert labels.dtype == torch.uint8 and torch.equal(labels.long(), plain.argmax(1))


def test_operators_are_compared_at_the_sizes_of_a_pyramid():
    deform = {"channels": 16, "groups": 2, "operators": ("deform",)}
    found = list(operator_comparisons(options(images=((100, 130),), strides=(8, 16), **deform)))
    assert [c.setting["map"] for c in found] == ["1x16x16x20", "1x16x8x10"]  # of the image padded to 128x160
    calls = found[0].alternatives
    ours, theirs = calls["fapn_d2"](), calls["torchvision"]()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert calls["conv3x3"]().shape == ours.shape
    assert get_backend() == "auto"

    (low,) = operator_comparisons(options(dtypes=("bf16",), strides=(8,), **deform))
    assert all(call().dtype == torch.bfloat16 for call in low.alternatives.values())


def test_flow_warps_are_compared_on_the_same_maps():
    (found,) = operator_comparisons(options(images=((100, 130),), strides=(8,), channels=16, operators=("flow",)))
    assert found.setting["map"] == "1x16x16x20" and found.reference == "bilinear"
    ours, theirs = found.alternatives["fapn_d2"](), found.alternatives["grid_sample"]()
    torch.testing.assert_close(ours, theirs)
    floor = found.alternatives["bilinear"]()
    assert floor.shape == ours.shape == (1, 16, 16, 20) and not torch.allclose(floor, ours)


def test_necks_are_compared_on_the_same_maps():
    (comparison,) = neck_comparisons(options(configs=(CONFIGS,), overrides=NARROW))
    fpn, fapn, on_torchvision = (call() for call in comparison.alternatives.values())
    assert list(comparison.alternatives)[1:] == [
        "semantic_R_18_FaPN_camvid",
        "semantic_R_18_FaPN_camvid on torchvision",
    ]
    assert [t.shape for t in fpn] == [t.shape for t in fapn]
    for a, b in zip(fapn, on_torchvision):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_random_batch_is_in_detectron2s_format(mask_format):
    cfg = load_config("", ["INPUT.MASK_FORMAT", mask_format])
    first, second = random_batch(cfg, (60, 80), 2, CPU)
    assert first["image"].shape == (3, 60, 80) and first["image"].dtype == torch.uint8
    assert not torch.equal(first["image"], second["image"])
    boxes = first["instances"].gt_boxes
    masks = first["instances"].gt_masks
    assert boxes.nonempty().all() and boxes.tensor.max() <= 80
    torch.testing.assert_close(masks.get_bounding_boxes().tensor, boxes.tensor, rtol=0, atol=1.0)
    assert first["sem_seg"].shape == (60, 80) and first["sem_seg"].max() < cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


def test_random_networks_are_alike_and_calm():
    (model, cfg), (again, _) = (
        build_random_network(CONFIGS[1], NARROW, CPU, torch.contiguous_format) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    assert cfg.MODEL.WEIGHTS == ""


@pytest.mark.parametrize("suite", ["ops", "neck", "model", "train", "speed"])
def test_the_tool(suite, tmp_path, capsys):
    arguments = ["--images", "64x64", "--repeats", "1", "--threads", "1", "--json", str(tmp_path / "n.json")]
    arguments += ["--strides", "16", "--channels", "16", "--dtypes", "bf16", "--quick", "--debug", "--opts", *NARROW]
    if suite == "speed":
        arguments += ["--configs", CONFIGS[1]]
    program = tool()
    threads = torch.get_num_threads()
    try:
        program.main(program.parse([suite, *arguments]))
    finally:
        torch.set_num_threads(threads)
    records = json.loads((tmp_path / "n.json").read_text())["measurements"]
    printed = capsys.readouterr().out
    assert all(r["suite"] == suite and r["median_ms"] > 0 for r in records)
    if suite == "speed":
        assert len(records) == 2 and {r["name"] for r in records} == {"float32", "bf16"}
        assert "image 64x64, batch 1, timed logits" in printed and "paper, its GPU" in printed
        return
    passes = {"ops": 4, "neck": 2, "model": 1, "train": 1}[suite]
    assert len(records) == 3 * passes and all(r["setting"]["dtype"] == "bf16" for r in records)
    assert printed.count("image 64x64") == passes and "x time" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["ops", "--cuda-graph"], "a CUDA graph needs a CUDA device, this is cpu"),
        (["speed", "--cuda-graph"], "a CUDA graph needs a CUDA device, this is cpu"),
        (["neck", "--fold-bn"], "--fold-bn and --timed are for the suite speed, not neck"),
        (["ops", "--dtypes", "fp16", "--device", "cpu"], "fp16 is for CUDA"),
        (["ops", "--groups", "3"], "--groups 3 must divide --channels 256"),
        (["sweep"], "the suite sweep times CUDA kernels"),
        (["neck", "--configs", "configs/fapn/none.yaml"], "none.yaml"),
    ],
)
def test_choices_that_cannot_act_are_refused(arguments, message, tmp_path):
    program = tool()
    arguments = program.parse([*arguments, "--device", "cpu", "--quick", "--json", str(tmp_path / "n.json")])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        program.main(arguments)


def measurement(name, median=1.0, peak=1.0, items=1):
    return Measurement("ops", {}, name, median, 0.0, 3, peak, items)


def test_goals_are_ratios_with_a_limit():
    comparison = Comparison("speed", {"paper_fps": 20}, "a", {})
    found = [measurement("a", 2.0, 30.0), measurement("b", 5.0, 10.0, items=2)]
    goals = (
        Goal("a over b", "time", 0.4, "a", "b"),  # 2 / 5
        Goal("b over a", "time", 2.4, "b", "a"),  # 2.5
        Goal("b over a", "time", 2.5, "b", "a", at_least=True),
        Goal("memory", "memory", 2.9, "a", "b"),  # 3
        Goal("frames", "frames", 25.0, at_least=True),  # 1000 / 2 and 2 * 1000 / 5 a second: the faster over 20
        Goal("what was left out", "time", 1.0, "a", "c"),
    )
    verdicts = judge(Trial("ops", {}, goals), comparison, found)
    assert [v.ratio for v in verdicts] == [0.4, 2.5, 2.5, 3.0, 25.0, None]
    assert [v.reached for v in verdicts] == [True, False, True, False, True, False]
    assert verdicts[1].line == "MISSED   2.50, at most 2.4: b over a"
    assert verdicts[2].line == "reached  2.50, at least 2.5: b over a"
    assert verdicts[5].line == "unknown  ?, at most 1: what was left out"
    assert (
        judge(Trial("speed", {}, goals[4:5]), replace(comparison, setting={"paper_fps": None}), found)[0].ratio is None
    )


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
def test_goals_name_what_their_comparisons_have(device):
    """Without running them: alternatives, networks whose speed the paper prints, choices that can act."""
    base = options(device=device)
    for trial in trials(device):
        chosen = replace(base, **trial.options)
        names = {"conv3x3", "fapn_d2", "torchvision"} if trial.suite == "ops" else set()
        for config in (config for group in chosen.configs for config in group):
            names.add(Path(config).stem)
            if trial.suite == "speed":
                (size,) = chosen.images
                cfg = load_config(config, [*SETTINGS, "MODEL.DEVICE", "cpu"])
                row = paper_row(config, cfg, size)
                assert {(512, 1024): 142, (1024, 2048): 18}[size] == row.paper["FPS"]
        for goal in trial.goals:
            assert goal.of == "frames" or {goal.measured, goal.against} <= names
        if device.type == "cpu":
            chosen.check(trial.suite)


def test_the_tool_judges_goals(tmp_path, capsys, monkeypatch, threads_stay):
    program = tool()
    size = {"images": ((64, 96),), "strides": (8,), "channels": 16, "groups": 2, "operators": ("deform",)}
    goal = Goal("a plain convolution's time over itself", "time", 1.0, "conv3x3", "conv3x3")
    monkeypatch.setattr(program, "trials", lambda device: (Trial("ops", size, (goal,)),))
    program.main(program.parse(["goals", "--device", "cpu", "--quick", "--json", str(tmp_path / "b.json")]))
    assert (
        "\nreached  1.00, at most 1: a plain convolution's time over itself (stride 8, pass forward)\n"
        in capsys.readouterr().out
    )
    kept = json.loads((tmp_path / "b.json").read_text())
    assert kept["threads"] == 2 and len(kept["measurements"]) == 6  # three alternatives, two passes
    assert [(g["reached"], g["setting"]["pass"]) for g in kept["goals"]] == [
        (True, "forward"),
        (True, "forward+backward"),
    ]


@pytest.fixture
def threads_stay():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_sweep_varies_one_thing_at_a_time():
    launch = Launch(8, 16, 256, 1, 32, 8, 3)
    found = neighbours(launch)
    assert len(found) == len(set(found)) and launch not in found
    assert replace(launch, tile_h=4) in found and replace(launch, stages=2) in found
    assert replace(launch, slots=2, channels=16) in found
    assert all(16 <= n.tile_h * n.tile_w <= 256 and n.warps in (4, 8) for n in found)


@pytest.mark.parametrize("text", ["800", "800x", "0x4", "axb"])
def test_sizes_are_read_strictly(text, capsys):
    with pytest.raises(SystemExit):
        tool().parse(["ops", "--images", text])
    assert "is not HEIGHTxWIDTH, as in 800x1333" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "stages"),
    [
        (
            "trials/panoptic_MaskFormer_FaPN_shapes",
            ["bottom-up", "pixel decoder", "transformer decoder", "matching", "losses", "post-processing"],
        ),
        (
            "quickstart/panopticfcn_FPN_shapes_overfit",
            ["bottom-up", "neck", "semantic branch", "position head", "kernel head", "losses", "post-processing"],
        ),
        ("quickstart/panoptic_FPN_shapes", ["bottom-up", "neck", "proposals", "RoI heads"]),
    ],
)
def test_stages_are_timed(config, stages):
    chosen = options(configs=((str(REPOSITORY / f"configs/{config}.yaml"),),), images=((64, 96),), overrides=())
    inference, training = stage_measurements(chosen, repeats=2, warmup=1)
    of_inference, of_training = {m.name for m in inference}, {m.name for m in training}
    assert set(stages) <= of_inference | of_training and "rest" in of_inference & of_training
    assert not of_inference & {"matching", "losses"} and "post-processing" not in of_training
    assert all(m.median_ms >= 0 and m.runs == 2 for m in (*inference, *training))
    assert inference[0].setting["pass"] == "inference" and training[0].setting["pass"] == "training, forward"
    lines = stage_table(inference).splitlines()
    assert len(lines) == 2 + len(inference) and lines[1].split() == ["median", "ms", "IQR", "%"]
    assert sum(float(line.split()[-1]) for line in lines[2:]) == pytest.approx(100, abs=1)


def test_time_inside_a_stage_counts_for_the_inner_stage(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr("fapn_d2.benchmark.stages.time.perf_counter", lambda: next(clock))
    timer = StageTimer(torch.device("cpu"))
    with timer.stage("outer"):
        timer.timed("inner", lambda: None)()
    assert timer.seconds == {"outer": 1.0 + 4.0, "inner": 2.0}


def test_timing_leaves_the_network_as_it_was():
    model = torch.nn.Module()
    model.backbone = torch.nn.Linear(2, 2)
    timer = StageTimer(torch.device("cpu"))
    with timed_stages(model, timer):
        model.backbone(torch.ones(1, 2))
    assert list(timer.seconds) == ["bottom-up"] and "forward" not in vars(model.backbone)


def test_mask_losses_in_chunks_and_plain():
    few, *_ = comparisons = list(mask_loss_comparisons(options(images=((60, 64),), batches=(2,))))
    assert [c.setting["losses of"] for c in comparisons] == ["MaskFormer"] * 2 + ["PanopticFCN"] * 2
    assert list(few.alternatives) == ["plain", "in chunks"] and few.setting["objects"] == 10
    for comparison in (comparisons[0], comparisons[2]):
        for call in comparison.alternatives.values():
            call()
