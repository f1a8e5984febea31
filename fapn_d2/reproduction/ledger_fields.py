"""What may stand in a ledger, and the errors for what may not; ``ledger.py`` says what the fields mean."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

LEDGER_FIELDS = {"paper": str, "title": str, "tolerance": dict, "flops_convention": str, "tables": list}
TABLE_FIELDS = {"name": str, "about": str, "rows": list}
ROW_FIELDS = {
    "id": str,
    "method": str,
    "config": str,
    "overrides": dict,
    "networks": dict,
    "pretraining": dict,
    "pending": str,
    "paper": dict,
    "tolerance": dict,
    "flops_size": list,
    "flops_convention": str,
    "measured": dict,
    "note": str,
}
NETWORK_FIELDS = {"config": str, "overrides": dict}
MEASURED_FIELDS = {"params": int, "inference_params": int, "gflops": float, "runs": list}
RUN_FIELDS = {"seed": int, "metrics": dict, "device": str, "commit": str, "config_hash": str}


def checked(content: Any, fields: Mapping[str, type], where: str, needed: Sequence[str] = ()) -> dict:
    """``content`` if it is a mapping with known fields of the right types, else ValueError."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be a mapping with {', '.join(fields)}; got {content!r}")
    for key, value in content.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{where}: unknown field {key!r}{hint}; allowed: {', '.join(fields)}")
        if not isinstance(value, (int, float) if fields[key] is float else fields[key]):
            raise ValueError(f"{where}: {key} must be a {fields[key].__name__}, got {value!r}")
    missing = [key for key in needed if key not in content]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return content


def numbers(content: Mapping[str, Any], where: str) -> dict[str, float]:
    """A copy of ``content`` if its values are numbers, else ValueError."""
    for key, value in content.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{where}: {key} must be a number, got {value!r}")
    return dict(content)
