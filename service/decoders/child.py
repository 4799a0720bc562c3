"""A process that decodes one photo and ends: request in, answer out.

It is forked from `service.decoders.template`, so that it begins with everything imported and with nobody's photo in its
memory. What it may map follows from the photo: some bytes for each pixel that the header declares, and a few times the
file.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

from service.core.errors import InputError
from service.core.types import DecodedImage, Upload
from service.decoders.confinement import limit_memory
from service.decoders.wire import Channel, Kind, receive_request, send_photo, send_refusal, send_text
from service.stages.containers.container import Container
from service.stages.decode import check_header

Decode = Callable[[Container], DecodedImage]

# Measured by lowering the limit until photos of 6 megapixels failed: WebP with alpha needs most, 19 bytes for each
# pixel beside three times its file (docs/SECURITY.md).
_BYTES_PER_PX = 32
_FILE_COPIES = 4
_LEAST_BYTES = 64 * 1024 * 1024


def decode_one(channel: Channel, decode: Decode, own_bytes: int) -> None:
    """Wait for a photo, and answer; so much is mapped before there is one.

    Raises:
        Ended: Nobody wants anything, or nobody waits for the answer.
    """
    try:
        image = _decoded(channel, decode, own_bytes)
    except InputError as error:
        send_refusal(channel, error)
    except MemoryError:
        send_text(channel, Kind.NO_MEMORY, "")
    except Exception:  # noqa: BLE001 - a defect, which the service tells its operator
        send_text(channel, Kind.DEFECT, traceback.format_exc())
    else:
        send_photo(channel, image)


def _decoded(channel: Channel, decode: Decode, own_bytes: int) -> DecodedImage:
    size_bytes, limits = receive_request(channel)
    least_bytes = own_bytes + _LEAST_BYTES + _FILE_COPIES * size_bytes
    limit_memory(least_bytes + _BYTES_PER_PX * limits.max_image_px)
    upload = Upload(channel.take(size_bytes))
    container = check_header(upload, limits)
    limit_memory(least_bytes + _BYTES_PER_PX * container.width_px * container.height_px)
    del upload  # what follows reads a copy without metadata
    return decode(container)
