"""Which launch shapes are chosen for which work."""

from fapn_d2.layers.deform_conv.cuda_launch import (
    Launch,
    Work,
    channels_at_a_time,
    forward_launch,
    position_launch,
    weight_launch,
)
from fapn_d2.layers.triton_support import power_of_two


def test_launches_fit_the_work():
    assert [power_of_two(n) for n in (1, 2, 3, 16, 17, 256)] == [1, 2, 4, 16, 32, 256]
    assert [channels_at_a_time(c, 32) for c in (1, 3, 4, 12, 16, 24, 32, 48, 80, 256)] == [
        *(1, 4, 4, 16, 16, 32, 32, 16, 16, 32)
    ]  # fmt: skip
    hopper = {"multiprocessors": 132, "shared_memory": 232448}
    stride4 = Work(half=True, pixels=2 * 200 * 336, group_c=32, outputs=256, **hopper)
    assert forward_launch(stride4) == Launch(8, 16, 256, 1, 32, 8, 3)
    assert position_launch(stride4).outputs == 256 and weight_launch(stride4).slots == 4
    stride16 = Work(half=True, pixels=32 * 64, group_c=32, outputs=256, **hopper)
    assert forward_launch(stride16) == Launch(8, 8, 128, 1, 32, 4, 3)
    few = Work(half=False, pixels=100, group_c=4, outputs=16, multiprocessors=80, shared_memory=101376)
    assert forward_launch(few).outputs == 16 and forward_launch(few).slots == 8 and forward_launch(few).channels == 4
