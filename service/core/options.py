"""What a caller may ask for: one declaration of every option's name, type and range, read by all interfaces.

    text fields (HTTP form, command line) -> OptionFields -> RestoreOptions

HTTP takes its documentation from it, the command line its flags, and the gateway checks against it once more, so that
no interface can let a value through that another refuses.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.core.errors import InvalidOption
from service.core.types import Background, FaceSelection, OutputFormat, RestoreOptions

MAX_SEED = 2**63 - 1
_MAX_ECHO_CHARS = 80


class OptionFields(BaseModel):
    """Validated mirror of `RestoreOptions`; the bundle's and the operator's limits are in `OptionLimits`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fidelity: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="0 gives the sampled face, 1 the posterior mean, values between a blend. Default: the bundle's, or "
        "more for a face that was hardly degraded.",
        examples=[0.5],
    )
    num_steps: int | None = Field(
        None, ge=1, description="Euler steps of the flow. Default and maximum: the bundle's.", examples=[10]
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Seed of the source noise; the report tells the one that was used. Default: random.",
        examples=[7],
        json_schema_extra={"format": "int64"},  # generated clients take an integer for 32 bits
    )
    faces: FaceSelection = Field(
        FaceSelection.ALL,
        description="`all` (at least one is required), `largest`, `center`, or `any` (a photo without one comes "
        "back unrestored, and the report says so).",
    )
    max_faces: int | None = Field(
        None, ge=1, description="Restore at most this many faces, largest first; the rest are reported as skipped."
    )
    det_threshold: float = Field(0.5, ge=0, le=1, allow_inf_nan=False, description="Least score of a detection.")
    min_face_px: int = Field(24, ge=1, le=10_000, description="Least side of a face box, in pixels of the photo.")
    aligned: bool = Field(False, description="The photo is one aligned face crop: no detection, no pasting.")
    upscale: float = Field(1.0, ge=1, le=4, allow_inf_nan=False, description="Factor between photo and result.")
    background: Background = Field(
        Background.LANCZOS, description="How the photo around the faces is enlarged when `upscale` is above 1."
    )
    output_format: OutputFormat | None = Field(None, description="Encoding of the result. Default: the photo's.")
    quality: int | None = Field(
        None,
        ge=1,
        le=100,
        description="JPEG or WebP quality. Default: 95, and no loss where the photo was a WebP without one.",
        examples=[80],
    )

    @classmethod
    def read(cls, fields: Mapping[str, object]) -> Self:
        """Check fields given by name; text is converted.

        Raises:
            InvalidOption: A name is unknown or a value is wrong; `extra` holds the option and what is allowed.
        """
        for name in fields:
            if name not in cls.model_fields:
                raise _unknown(name)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise _wrong(str(first["loc"][0]), first["input"], str(first["msg"])) from error

    def to_options(self) -> RestoreOptions:
        """The pipeline's own type."""
        return RestoreOptions(**dict(self))


@dataclass(frozen=True, slots=True)
class OptionLimits:
    """Bounds that depend on the bundle and on the operator.

    Attributes:
        max_num_steps: Largest `num_steps`, from the manifest.
        max_faces: Largest `max_faces`, from the settings.
    """

    max_num_steps: int
    max_faces: int


def parse_options(fields: Mapping[str, str], limits: OptionLimits) -> RestoreOptions:
    """Turn text fields into options; an empty text counts as not given, as an HTML form sends it.

    Raises:
        InvalidOption: A name is unknown or a value is wrong; `extra` holds the option and what is allowed.
    """
    options = OptionFields.read({name: text for name, text in fields.items() if text != ""}).to_options()
    check_options(options, limits)
    return options


def check_options(options: RestoreOptions, limits: OptionLimits) -> None:
    """Check options whatever interface they came through.

    Raises:
        InvalidOption: A value is out of range.
    """
    OptionFields.read(dataclasses.asdict(options))
    for name, maximum in (("num_steps", limits.max_num_steps), ("max_faces", limits.max_faces)):
        value = getattr(options, name)
        if value is not None and value > maximum:
            raise _wrong(name, value, f"Input should be less than or equal to {maximum}", {"maximum": maximum})


@cache
def option_schemas() -> dict[str, dict[str, Any]]:
    """JSON schema of each option, references resolved and the null alternative left out."""
    schema = OptionFields.model_json_schema()
    definitions = schema.get("$defs", {})
    flat: dict[str, dict[str, Any]] = {}
    for name, entry in schema["properties"].items():
        own = {key: value for key, value in entry.items() if key not in ("anyOf", "$ref", "title")}
        core = next((part for part in entry.get("anyOf", [entry]) if part.get("type") != "null"), entry)
        if "$ref" in core:
            core = definitions[core["$ref"].rsplit("/", 1)[-1]]
        kept = {key: value for key, value in core.items() if key not in ("title", "description", "default", "examples")}
        flat[name] = {**kept, **own}
    return flat


def in_flags(hint: str) -> str:
    """A hint in the command line's words: options that it names as HTTP and gRPC do, such as `max_faces`, as flags."""
    names = "|".join(OptionFields.model_fields)
    hint = re.sub(rf"`({names})`", r"`--\1`", hint)
    hint = re.sub(rf"\b({names})=(?=\w)", r"--\1 ", hint)
    compound = "|".join(name for name in OptionFields.model_fields if "_" in name)  # the others are words, too
    hint = re.sub(rf"(?<![-\w])({compound})\b", r"--\1", hint)
    return re.sub(r"--\w+", lambda flag: flag[0].replace("_", "-"), hint)


def _unknown(name: str) -> InvalidOption:
    close = difflib.get_close_matches(name, OptionFields.model_fields, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"options are {', '.join(OptionFields.model_fields)}"
    shown = name[:_MAX_ECHO_CHARS]
    return InvalidOption(f"unknown option {shown!r}", hint=hint, option=shown)


def _wrong(name: str, given: object, why: str, more: Mapping[str, Any] | None = None) -> InvalidOption:
    schema = option_schemas()[name]
    allowed = {key: schema[key] for key in ("type", "enum", "minimum", "maximum") if key in schema} | dict(more or {})
    shown = str(given)[:_MAX_ECHO_CHARS]
    detail = f"{name}={shown!r}: {why[:1].lower()}{why[1:]}"
    return InvalidOption(detail, hint=f"{name}: {_in_words(allowed)}", option=name, given=shown, allowed=allowed)


def _in_words(allowed: Mapping[str, Any]) -> str:
    if "enum" in allowed:
        return "one of " + ", ".join(map(str, allowed["enum"]))
    bounds = [f"{word} {allowed[key]}" for word, key in (("from", "minimum"), ("to", "maximum")) if key in allowed]
    return " ".join([f"{allowed.get('type', 'a value')}", *bounds])
