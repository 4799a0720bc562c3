"""A request for a restoration with job semantics in, what the core is to admit out."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from service.access.caller import Caller
from service.api import idempotency
from service.api.context import ApiContext
from service.api.photo_form import read_photo_form
from service.api.preferences import Preferences
from service.core.errors import InvalidOption
from service.core.options import parse_options
from service.core.types import Lane
from service.submission import Submission
from service.webhooks.targets import OPTION

IMAGE_FROM = "image_from"
"""Field in place of the photo: the id of an earlier restoration."""
KEEP_IMAGE = "keep_image"
PREVIEW = "preview"

_FLAG = TypeAdapter(bool)


async def read_submission(
    request: Request, caller: Caller, context: ApiContext, preferences: Preferences
) -> Submission:
    """Read a request.

    Raises:
        InputError: The request or an option is at fault.
        DeadlineExceeded: The body did not arrive in time.
        HungUp: The client went away.
    """
    gateway = context.gateway
    key = idempotency.parse_key(request.headers.getlist(idempotency.HEADER))
    form = await read_photo_form(
        request,
        max_bytes=gateway.settings.max_upload_bytes,
        timeout_s=gateway.settings.request_timeout_s,
        stand_in=IMAGE_FROM,
    )
    webhook_url, earlier = form.options.pop(OPTION, ""), form.options.pop(IMAGE_FROM, "")
    keep_upload, previews = _flag(form.options, KEEP_IMAGE), _flag(form.options, PREVIEW)
    options = parse_options(form.options, gateway.option_limits)
    return Submission(
        caller=caller,
        upload=form.upload or earlier,
        options=options,
        lane=Lane.INTERACTIVE if _is_awaited(preferences, previews=previews) else Lane.BATCH,
        webhook_url=webhook_url,
        idempotency_key=key,
        keep_upload=keep_upload,
        previews=previews,
    )


def _is_awaited(preferences: Preferences, *, previews: bool) -> bool:
    """Whether somebody waits for the photo: for the answer, or before its previews, as the page does."""
    return not preferences.respond_async and (preferences.wait_s != 0 or previews)


def _flag(fields: dict[str, str], name: str) -> bool:
    """Take a yes or no out of the fields; no if it is not there."""
    text = fields.pop(name, "")
    try:
        return bool(text) and _FLAG.validate_python(text)
    except ValidationError as error:
        raise InvalidOption(
            f"{name}={text[:80]!r}: input should be true or false", hint=f"{name}: true or false", option=name
        ) from error
