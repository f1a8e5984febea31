"""Names of the modules of DF1 and DF2 in their authors' files and here, both ways.

====================================================  ================================================
official                                              fapn_d2
====================================================  ================================================
``stage1.{0,3}``, ``stage1.{1,4}``                    ``stem.conv{1,2}``, ``stem.conv{1,2}.norm``
``<stage>.{b}.conv{k}``, ``<stage>.{b}.bn{k}``        ``res{j}.{b}.conv{k}``, ``res{j}.{b}.conv{k}.norm``
``<stage>.{b}.downsample.{0,1}``                      ``res{j}.{b}.shortcut``, ``res{j}.{b}.shortcut.norm``
====================================================  ================================================

The second stage has j = 2, as in backbones/df.py. Shapes and values are the same.
"""

from ...backbones.df import DF1, DF2

_TABLES = {"DF1": DF1, "DF2": DF2}
_STEM = {"0": "conv1", "1": "conv1.norm", "3": "conv2", "4": "conv2.norm"}
_BLOCK = {
    "conv1": "conv1",
    "bn1": "conv1.norm",
    "conv2": "conv2",
    "bn2": "conv2.norm",
    "downsample.0": "shortcut",
    "downsample.1": "shortcut.norm",
}


def df_module_to_ours(module: str, network: str) -> str | None:
    """The official name of a module of "DF1" or "DF2" -> our name; None if the network does not have the module."""
    return _modules(network).get(module)


def df_module_to_official(module: str, network: str) -> str | None:
    """Our name of a module of "DF1" or "DF2" -> the official name; None if the network does not have the module."""
    return {ours: official for official, ours in _modules(network).items()}.get(module)


def _modules(network: str) -> dict[str, str]:
    modules = {f"stage1.{official}": f"stem.{ours}" for official, ours in _STEM.items()}
    for j, stage in enumerate(_TABLES[network], start=2):
        for block in range(stage.blocks):
            for official, ours in _BLOCK.items():
                modules[f"{stage.official}.{block}.{official}"] = f"res{j}.{block}.{ours}"
    return modules
