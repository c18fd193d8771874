"""Settings as frozen records: each field has one text and one range, and whatever is wrong is refused in our words."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import InputError, require_known

AnyRecord = TypeVar("AnyRecord", bound=BaseModel)


class Record(BaseModel):
    """A frozen record. A string below a field is its description; it is also the help of the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def validated(kind: type[AnyRecord], values: Mapping[str, Any]) -> AnyRecord:
    """The record with these values; `InputError` naming the first field that is unknown or wrong."""
    for name in values:
        require_known("a setting", name, kind.model_fields)
    try:
        return kind(**{name: plain_number(value) for name, value in values.items()})
    except ValidationError as error:
        raise refusal(error) from None


def plain_number(value: Any) -> Any:
    """A number of numpy's as Python's; anything else as it is."""
    if type(value) in (int, float, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def refusal(error: ValidationError) -> InputError:
    """The first thing that a record refused."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):  # from a validator of ours
        return cause
    got = repr(first["input"])
    got = got if len(got) <= 200 else f"{got[:197]}..."
    return InputError(f"a valid {'.'.join(map(str, first['loc']))}", got, f"{first['msg']}.")
