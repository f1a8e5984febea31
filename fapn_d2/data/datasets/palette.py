"""Colours for data sets that come without."""


def palette(number: int) -> list[list[int]]:
    """``number`` different RGB colours, far apart at the beginning, as PASCAL VOC spreads them.

    The bits of a class number are dealt to red, green and blue in turn, the lowest to the highest bit of the colour.
    """
    colors = []
    for index in range(1, number + 1):  # 0 would be black
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append(color)
    return colors
