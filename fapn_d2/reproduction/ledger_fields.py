"""The fields of a ledger with their types, and the errors for others; ``ledger.py`` says what the fields mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..messages import nearest

#: Fields that rows inherit from their table and from the ledger.
INHERITED_FIELDS = {
    "config": str,
    "overrides": dict,
    "pending": str,
    "tolerance": dict,
    "flops_size": list,
    "flops_convention": str,
    "start": str,
    "trials": str,
    "note": str,
    "proposals": dict,
}
LEDGER_FIELDS = {"paper": str, "title": str, "tables": list, **INHERITED_FIELDS}
TABLE_FIELDS = {"name": str, "about": str, "rows": list, "others": list, **INHERITED_FIELDS}
ROW_FIELDS = {
    "id": str,
    "method": str,
    **INHERITED_FIELDS,
    "networks": dict,
    "merged": bool,
    "pretraining": dict,
    "alternating": dict,
    "paper": dict,
    "read_as": dict,
    "measured": dict,
}
OTHER_FIELDS = {"method": str, "paper": dict}
NETWORK_FIELDS = {"config": str, "overrides": dict}
ALTERNATING_FIELDS = {"rpn": dict, "detector": dict}
MEASURED_FIELDS = {
    "params": int,
    "inference_params": int,
    "gflops": float,
    "flops_T": float,
    "memory_Gact": float,
    "runs": list,
}
RUN_FIELDS = {"seed": int, "metrics": dict, "device": str, "commit": str, "config_hash": str}


def checked(content: Any, fields: Mapping[str, type], where: str, needed: Sequence[str] = ()) -> dict:
    """``content`` itself.

    Args:
        content: the content of the file.
        fields: name -> type of every allowed field.
        where: file and row, for messages.
        needed: fields that must be there.

    Raises:
        ValueError: ``content`` is not a mapping, or a field is unknown, missing or of another type.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be a mapping with {', '.join(fields)}; got {content!r}")
    for key, value in content.items():
        if key not in fields:
            hint = nearest(str(key), fields, limit=1)
            raise ValueError(f"{where}: unknown field {key!r}{hint}; allowed: {', '.join(fields)}")
        if not isinstance(value, (int, float) if fields[key] is float else fields[key]):
            raise ValueError(f"{where}: {key} must be a {fields[key].__name__}, got {value!r}")
    missing = [key for key in needed if key not in content]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return content


def numbers(content: Mapping[str, Any], where: str) -> dict[str, float]:
    """A copy of ``content``. Raises ValueError if a value is not a number."""
    for key, value in content.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{where}: {key} must be a number, got {value!r}")
    return dict(content)
