"""Registering data sets whose place may change after import."""

import logging
import os
from collections.abc import Callable, Mapping

from detectron2.data import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)

#: Environment variable with the folder of all data sets, the same as Detectron2's.
ROOT_VARIABLE = "DETECTRON2_DATASETS"


def data_root() -> str:
    """Folder that holds all data sets: ``$DETECTRON2_DATASETS``, else ``datasets`` in the current folder."""
    return os.path.expanduser(os.getenv(ROOT_VARIABLE, "datasets"))


def register(name: str, load: Callable[[str], list[dict]], *, paths: Mapping[str, str], **metadata) -> None:
    """Register a data set that is looked for under :func:`data_root` each time it is asked for.

    Detectron2 reads the variable once, at import; notebooks and tests set it later. A name that is taken already is
    left to whoever took it, with a warning.

    Args:
        name: the name in Detectron2's catalogs.
        load: data root -> records in Detectron2's format.
        paths: metadata that are paths, relative to the data root.
        **metadata: everything else for the ``MetadataCatalog``.
    """
    if name in DatasetCatalog:
        logger.warning("A data set named %s is registered already; fapn_d2 leaves it as it is.", name)
        return

    def load_from_current_root() -> list[dict]:
        root = data_root()
        _set_paths(name, root, paths)
        return load(root)

    DatasetCatalog.register(name, load_from_current_root)
    MetadataCatalog.get(name).set(**metadata)
    _set_paths(name, data_root(), paths)


def _set_paths(name: str, root: str, paths: Mapping[str, str]) -> None:
    # Metadata refuses to change a value, which guards class lists; a folder that moved is no contradiction.
    vars(MetadataCatalog.get(name)).update({key: os.path.join(root, path) for key, path in paths.items()})
