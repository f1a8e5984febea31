"""Reading pickles without running code in them.

A pickle can run any code while it is read. The unpickler here knows arrays and containers, and refuses everything else.
"""

import collections
import io
import pickle
from typing import Any

import numpy as np

try:
    from numpy._core import multiarray
except ImportError:  # numpy < 2
    from numpy.core import multiarray

#: The classes and functions of arrays and their scalars, under the names that numpy 1 and numpy 2 write.
NUMPY = {
    f"{module}.{name}": getattr(multiarray, name)
    for module in ("numpy._core.multiarray", "numpy.core.multiarray")
    for name in ("_reconstruct", "scalar")
}
NUMPY |= {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}
DTYPES = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdFD"}
#: Python 3 uses `_codecs.encode` for bytes in the older protocols that Python 2 can read.
_CONTAINERS = {
    "collections.OrderedDict": collections.OrderedDict,
    "_codecs.encode": __import__("_codecs").encode,
}


class _ForeignObject(Exception):
    """The file contains an object that is neither an array nor a container."""


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        for known in (NUMPY, _CONTAINERS):
            if full_name in known:
                return known[full_name]
        raise _ForeignObject(full_name)


def read_pickle(path: str) -> Any:
    """Arrays, containers, numbers and text from a pickle.

    Raises:
        ValueError: the file is truncated or damaged, or contains objects that are not data.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        return _DataUnpickler(io.BytesIO(data), encoding="latin1").load()
    except _ForeignObject as error:
        raise ValueError(refusal(path, str(error))) from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is truncated or damaged: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def refusal(path: str, foreign: str) -> str:
    return (
        f"{path} is refused because reading it could run code: it holds {foreign}. If you trust its source, load it "
        "in a process of its own and save only the tensors: torch.save({'model': state_dict}, 'weights.pth')"
    )
