"""Options as keyword arguments in, what goes on the wire out; names and values are those of HTTP's form fields."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Literal, TypedDict

FormatName = Literal["jpeg", "png", "webp"]


class Options(TypedDict, total=False):
    """What a caller may choose; what is left out is the service's default.

    `service.core.options` tells what each means; the service checks the values.
    """

    fidelity: float
    num_steps: int
    seed: int
    faces: Literal["all", "largest", "center", "any"]
    max_faces: int
    det_threshold: float
    min_face_px: int
    aligned: bool
    upscale: float
    background: Literal["none", "lanczos"]
    output_format: FormatName
    quality: int


def chosen(options: Mapping[str, object]) -> dict[str, object]:
    """The options that have a value: None counts as left out.

    Raises:
        TypeError: A name is no option.
    """
    for name in options:
        if name not in Options.__annotations__:
            close = difflib.get_close_matches(name, Options.__annotations__, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"there is no option {name!r}{meant}")
    return {name: value for name, value in options.items() if value is not None}


def as_fields(options: Mapping[str, object]) -> dict[str, str]:
    """The options as text fields of a form.

    Raises:
        TypeError: A name is no option.
    """
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in chosen(options).items()
    }
