"""Accept header in, what to answer with out: the image in one of three encodings, or the JSON report."""

from __future__ import annotations

from dataclasses import dataclass

from service.core.errors import NotAcceptable
from service.core.types import OutputFormat

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Representation:
    """What the client gets.

    Attributes:
        as_report: The JSON report instead of the image.
        output_format: Encoding of the image, or None for the photo's own.
    """

    as_report: bool
    output_format: OutputFormat | None


@dataclass(frozen=True, slots=True)
class _Range:
    """One entry of an Accept header."""

    media_type: str
    quality: float

    @property
    def precision(self) -> int:
        """How narrow it is; the narrowest that matches decides (RFC 9110, section 12.5.1)."""
        if self.media_type == "*/*":
            return 0
        return 1 if self.media_type.endswith("/*") else 2

    def covers(self, media_type: str) -> bool:
        """Whether a media type falls under it."""
        return self.media_type in (media_type, f"{media_type.split('/')[0]}/*", "*/*")


def negotiate(accept: str, *, requested: OutputFormat | None, source: OutputFormat | None) -> Representation:
    """Choose what to answer with.

    The highest quality wins; among equals the photo's own encoding, then any image, then the report.

    Args:
        accept: Accept header; empty means anything.
        requested: Option `output_format`, which narrows the choice of encodings to one.
        source: Encoding of the upload, as far as known.

    Raises:
        NotAcceptable: The header allows nothing the service makes.
    """
    ranges = _parse(accept)
    formats = [requested] if requested else sorted(OutputFormat, key=lambda known: known is not source)
    ranked = [(_quality(f"image/{known.value}", ranges), known) for known in formats]
    best_quality, best = max(ranked, key=lambda pair: pair[0])
    report_quality = _quality(JSON, ranges)
    if best_quality <= 0 and report_quality <= 0:
        raise NotAcceptable(
            f"Accept: {accept[:120]}" + (f" with output_format={requested.value}" if requested else ""),
            hint="accept image/jpeg, image/png, image/webp or application/json",
        )
    chosen = best if best_quality > 0 else requested
    return Representation(report_quality > best_quality, chosen)


def _parse(accept: str) -> list[_Range]:
    ranges = []
    for entry in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in entry.split(";"))
        if media_type:
            ranges.append(_Range("*/*" if media_type == "*" else media_type, _q_value(parameters)))
    return ranges or [_Range("*/*", 1.0)]


def _q_value(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def _quality(media_type: str, ranges: list[_Range]) -> float:
    matching = [entry for entry in ranges if entry.covers(media_type)]
    return max(matching, key=lambda entry: entry.precision).quality if matching else 0.0
