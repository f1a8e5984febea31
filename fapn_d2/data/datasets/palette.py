"""Colours for data sets that do not define their own."""


def palette(number: int) -> list[list[int]]:
    """``number`` different RGB colours in the order of PASCAL VOC; the first ones are easy to tell apart.

    The bits of a class number go to red, green and blue in turn. Lower bits of the number become higher bits of the
    colour.
    """
    colors = []
    for index in range(1, number + 1):  # 0 would be black
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append(color)
    return colors
