"""Request body in, photo and option fields out; the byte limit holds while the body streams.

The length a client declares may be a lie, so bytes are counted as they arrive, and a body that trickles is given up: it
would keep a place that others wait for. Parts stay in memory: a photo never touches the disk, and the file system may
be read-only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from service.core.arriving import FIRST_BYTES_S, arriving
from service.core.errors import (
    EmptyUpload,
    HungUp,
    InvalidOption,
    MalformedRequest,
    UnsupportedMediaType,
    check_upload_bytes,
)
from service.core.types import Upload

FIELD = "image"
_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 1024
_CHARSETS = {b"utf-8", b"us-ascii"}  # the parser would take any codec of Python's, and what that makes of bytes
_EXAMPLE = "curl --fail-with-body -F image=@photo.jpg http://HOST/restore -o restored.jpg"
_ONE_PHOTO = "send one photo a request; `latent-pmrf batch` and gRPC's RestoreBatch take many"


@dataclass(frozen=True, slots=True)
class PhotoForm:
    """A parsed request.

    Attributes:
        upload: The photo; None where a stand-in is there in its place.
        options: Option fields by name, as text.
    """

    upload: Upload | None
    options: dict[str, str]

    @property
    def photo(self) -> Upload:
        """The photo.

        Raises:
            MalformedRequest: There is none.
        """
        if self.upload is None:
            names = ", ".join(sorted(self.options)) or "none"
            raise MalformedRequest(
                f"there is no file field {FIELD!r}; fields are: {names[:200]}", hint=f"for example: {_EXAMPLE}"
            )
        return self.upload


class _MemoryParser(MultiPartParser):
    spool_max_size = 0  # a spooled file without a maximum never moves to disk


async def read_photo_form(
    request: Request,
    *,
    max_bytes: int,
    timeout_s: float,
    stand_in: str = "",
    first_bytes_s: float = FIRST_BYTES_S,
) -> PhotoForm:
    """Read and take apart a multipart request.

    Args:
        request: Its body has not been read.
        max_bytes: Largest body.
        timeout_s: Longest time the body may take to arrive.
        stand_in: Name of a field that may be there in place of the photo.
        first_bytes_s: As of `arriving`.

    Raises:
        UploadTooLarge: The body is above the limit, as declared or as counted.
        EmptyUpload: There is no body, or the photo has no bytes.
        UnsupportedMediaType: The body is not multipart/form-data, or its text not in UTF-8.
        MalformedRequest: The body cannot be parsed, or has not exactly one photo, or both photo and stand-in.
        InvalidOption: A field is there twice.
        DeadlineExceeded: The body did not arrive in time.
        HungUp: The client went away.
    """
    _check_headers(request, max_bytes)
    try:
        async with arriving(timeout_s, first_bytes_s) as come, aclosing(_counted(request, max_bytes, come)) as body:
            form = await _MemoryParser(
                request.headers,
                body,
                max_files=1,
                max_fields=_MAX_FIELDS,
                max_part_size=_MAX_FIELD_BYTES,
            ).parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise MalformedRequest("the form has more than one file", hint=_ONE_PHOTO) from error
        raise MalformedRequest(error.message, hint=f"for example: {_EXAMPLE}") from error
    except ClientDisconnect as error:
        raise HungUp("the client went away before its request was complete") from error
    try:
        return _whole(PhotoForm(await _photo(form), _options(form)), stand_in)
    finally:
        await form.close()


def _check_headers(request: Request, max_bytes: int) -> None:
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit():
        check_upload_bytes(int(declared), max_bytes, whole=False)
    if declared == "0" or (declared is None and "transfer-encoding" not in request.headers):
        raise EmptyUpload("the request has no body", hint=f"for example: {_EXAMPLE}")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        raise UnsupportedMediaType(
            f"the request is {media_type or 'of no content type'}, not multipart/form-data",
            hint=f"for example: {_EXAMPLE}",
            content_type=media_type,
        )
    _, parameters = parse_options_header(request.headers["content-type"])
    if parameters.get(b"charset", b"utf-8").lower() not in _CHARSETS:
        raise UnsupportedMediaType("the form's charset is not utf-8", hint="leave the charset out")


async def _counted(request: Request, max_bytes: int, come: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """The body, telling how many bytes have come whenever some have."""
    count_bytes = 0
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            count_bytes += len(chunk)
            check_upload_bytes(count_bytes, max_bytes, whole=False)
            come(count_bytes)
            yield chunk
    if count_bytes == 0:
        raise EmptyUpload("the request has no body", hint=f"for example: {_EXAMPLE}")


def _whole(form: PhotoForm, stand_in: str) -> PhotoForm:
    """The form, if it has either a photo or what stands in for one."""
    if not form.options.get(stand_in):
        return PhotoForm(form.photo, form.options)
    if form.upload is not None:
        raise MalformedRequest(f"there are both {FIELD!r} and {stand_in!r}", hint="send one of them")
    return form


async def _photo(form: FormData) -> Upload | None:
    photo = form.get(FIELD)
    if photo is None:
        return None
    if not isinstance(photo, UploadFile):
        raise MalformedRequest(f"field {FIELD!r} is text, not a file", hint=f"for example: {_EXAMPLE}")
    data = await photo.read()
    if not data:
        raise EmptyUpload(f"field {FIELD!r} has no bytes", hint="was the file read?")
    return Upload(data)


def _options(form: FormData) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in form.multi_items():
        if name == FIELD:
            continue
        if isinstance(value, UploadFile):
            raise MalformedRequest(f"unexpected file field {name[:80]!r}", hint=f"send the photo as {FIELD!r}")
        if name in options:
            raise InvalidOption(f"option {name[:80]!r} is there twice", option=name[:80])
        options[name] = value
    return options
