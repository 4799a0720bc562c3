import platform
import subprocess
import sys

import pytest

from service.composition.allocator import keep_arrays

FAULTS = """
import resource, sys
import numpy as np
from service.composition.allocator import keep_arrays
if sys.argv[1] == "kept":
    assert keep_arrays({})
for _ in range(8):
    np.ones((512, 512, 3), np.float32), np.ones((512, 512, 3), np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    first = np.ones((512, 512, 3), np.float32)
    second = np.ones((512, 512, 3), np.float32)
    del first, second
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way):
    told = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_of_arrays_is_used_again_instead_of_cleared():
    assert faults("kept") < 0.2 * faults("given back")


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_an_operator_says_holds(name):
    assert not keep_arrays({name: "1"})
