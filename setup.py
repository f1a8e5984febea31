"""Metadata, dependency ranges and extras of fapn_d2.

Detectron2 is needed but not listed: it is not on PyPI under its own name, and whoever has built one keeps it
(v0.6 up to today's main). The README tells how to get it; ``import fapn_d2`` says so too when it is missing.
Exact versions are pinned in ``requirements/constraints.txt``.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent

INSTALL_REQUIRES = [
    "torch>=2.10",
    "torchvision>=0.25",
    "numpy>=1.24",
    "scipy",
    "pillow",
    "matplotlib",
    "opencv-python-headless",
    "pycocotools>=2.0.7",
    "tqdm",
    "tensorboard",
    "packaging",
    # Detectron2's model_zoo imports pkg_resources, which setuptools 82 removed
    "setuptools<82",
    # what Detectron2 itself imports (its wheel is installed without dependencies)
    "fvcore>=0.1.5.post20221221",
    "iopath",
    "yacs>=0.1.8",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "jinja2",
    "tabulate",
    "termcolor",
    "cloudpickle",
    "PyYAML",
]
EXTRAS = {
    "timm": ["timm>=1.0"],
    # pyquaternion: cityscapesscripts imports it; shapely: Detectron2 cuts Cityscapes' polygons with it
    "eval": ["hotcoco>=1.3", "pyquaternion", "shapely>=2.0"],
    "export": ["onnx>=1.18", "onnxscript", "onnxruntime"],
    "cluster": ["submitit>=1.5"],
    "dev": ["pytest", "pytest-xdist", "hypothesis", "ruff", "h5py"],
}


def version() -> str:
    text = (HERE / "fapn_d2" / "version.py").read_text()
    return re.search(r'^__version__ = "(.+)"', text, re.M).group(1)


if "--print-requirements" in sys.argv:  # used by tools/setup_env.sh, so that the list stands only here
    extras = sys.argv[sys.argv.index("--print-requirements") + 1 :]
    print("\n".join(INSTALL_REQUIRES + [r for e in extras for r in EXTRAS[e]]))
    sys.exit()

from setuptools import find_packages, setup  # noqa: E402  (a bare Python >= 3.12 can print, but has no setuptools)

setup(
    name="fapn_d2",
    version=version(),
    description="FaPN, AugFPN, SFNet, FPN and Panoptic FPN as one feature pyramid for Detectron2",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["fapn_d2", "fapn_d2.*"]),
    package_data={"fapn_d2.visualization": ["page.html", "page.css"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
)
