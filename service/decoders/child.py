"""A process that decodes one photo and ends: request in, answer out.

It is forked from `service.decoders.template`, so that it begins with everything imported and with nobody's photo in its
memory. What it may hold follows from the photo: `BYTES_PER_PX` for each pixel that the header declares, and a few times
the file.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from service.core.errors import InputError
from service.core.types import DecodedImage, Upload
from service.decoders.confinement import limit_memory
from service.decoders.wire import Channel, Kind, receive_request, send_photo, send_refusal, send_text
from service.stages.containers.container import Container
from service.stages.decode import DecodeLimits, check_header

Decode = Callable[[Container], DecodedImage]

# Measured by lowering the limit until photos of 6 megapixels failed: WebP with alpha needs most, 19 bytes for each
# pixel beside three times its file (docs/SECURITY.md).
BYTES_PER_PX = 32
FILE_COPIES = 4
LEAST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """What a child may map.

    Attributes:
        own_bytes: Its code, its libraries and its heap, before it has a photo.
    """

    own_bytes: int

    def before_the_header(self, file_bytes: int, limits: DecodeLimits) -> int:
        """For a file of which nothing is known but its size."""
        return self.for_photo(file_bytes, limits.max_image_px)

    def for_photo(self, file_bytes: int, image_px: int) -> int:
        """For a file that declares so many pixels."""
        return self.own_bytes + LEAST_BYTES + FILE_COPIES * file_bytes + BYTES_PER_PX * image_px


def decode_one(channel: Channel, decode: Decode, memory: Memory) -> None:
    """Wait for a photo, and answer.

    Args:
        channel: To the service.
        decode: As `service.stages.decode.decode_picture`.
        memory: What it may hold.

    Raises:
        Ended: Nobody wants anything, or nobody waits for the answer.
    """
    try:
        image = _decoded(channel, decode, memory)
    except InputError as error:
        send_refusal(channel, error)
    except MemoryError:
        send_text(channel, Kind.NO_MEMORY, "")
    except Exception:  # noqa: BLE001 - a defect, which the service tells its operator
        send_text(channel, Kind.DEFECT, traceback.format_exc())
    else:
        send_photo(channel, image)


def _decoded(channel: Channel, decode: Decode, memory: Memory) -> DecodedImage:
    size_bytes, limits = receive_request(channel)
    limit_memory(memory.before_the_header(size_bytes, limits))
    upload = Upload(channel.take(size_bytes))
    container = check_header(upload, limits)
    limit_memory(memory.for_photo(size_bytes, container.width_px * container.height_px))
    del upload  # what follows reads a copy without metadata
    return decode(container)
