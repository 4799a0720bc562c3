"""Which decoded pictures are still in memory."""

import weakref

from service.stages.decode import decode


class Seen:
    """Decodes, and knows which pictures are still there."""

    def __init__(self):
        self._pictures = []

    def decode(self, upload, limits):
        image = decode(upload, limits)
        self._pictures.append(weakref.ref(image.pixels))
        return image

    @property
    def left(self):
        return [picture for picture in self._pictures if picture() is not None]

    @property
    def count(self):
        return len(self._pictures)
