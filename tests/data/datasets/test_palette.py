from fapn_d2.data.datasets.palette import palette


def test_voc_colours_and_no_colour_twice():
    assert palette(3) == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]  # aeroplane, bicycle, bird
    assert palette(20)[-1] == [0, 64, 128]  # tv monitor
    assert len({tuple(color) for color in palette(182)}) == 182
