"""The maps that a head or a network takes from its backbone."""

from collections.abc import Collection, Sequence


def require_features(key: str, names: Sequence[str], given: Collection[str], *, some: bool = True) -> None:
    """Refuse names of maps that the backbone does not have.

    Args:
        key: the config key that lists the names, for the message.
        names: the names of the maps that are wanted.
        given: the names of the backbone's maps.
        some: whether an empty list is refused here.

    Raises:
        ValueError: one of ``names`` is not in ``given``, or there are none although ``some`` are needed.
    """
    missing = [name for name in names if name not in given]
    if missing or (some and not names):
        end = f", not {missing}" if missing else "; name at least one of them"
        raise ValueError(f"{key} = {list(names)}: the backbone gives {list(given)}{end}")
