import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from service.stages.samples import as_samples, writable


@pytest.mark.parametrize("height", [1, 255, 256, 511])
@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "I;16"])
def test_a_pillow_picture_becomes_an_array_of_its_own(mode, height):
    if mode == "I;16":
        image = Image.fromarray(astronaut()[:height, :, 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(astronaut()[:height]).convert(mode)
    samples = as_samples(image)
    np.testing.assert_array_equal(samples, np.asarray(image))
    assert samples.dtype == np.asarray(image).dtype
    assert samples.flags.writeable
    assert samples.flags.c_contiguous
    samples[...] = 0  # and not the picture's memory
    assert np.asarray(image).any()


def test_arrays_are_not_copied():
    array = astronaut()
    assert as_samples(array) is not None
    assert np.shares_memory(as_samples(array), array)


def test_other_depths_are_refused():
    with pytest.raises(ValueError, match="8 or 16 bits a sample are needed, got float32"):
        as_samples(np.zeros((2, 2), np.float32))


def test_writable_copies_only_what_cannot_be_written():
    array = np.zeros((2, 3), np.uint8)
    array.setflags(write=False)
    assert writable(array) is array
    assert array.flags.writeable
    fixed = np.frombuffer(b"abc", np.uint8)
    freed = writable(fixed)
    freed[0] = 0
    assert fixed.tobytes() == b"abc"
