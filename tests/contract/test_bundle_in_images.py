"""The bundle in an image can be read by the user that the image runs as, whatever the umask of the checkout was."""

import pytest

from tests.images import read_image


@pytest.mark.parametrize(
    ("name", "folder"), [("gateway", "model_repository"), ("worker", "model_repository"), ("triton", "/models")]
)
def test_it_can_be_read_by_everybody(name, folder):
    build, _ = read_image(name)
    (run,) = [run for run in build.all("RUN") if "export.detector" in run.rest]
    assert ["chmod", "-R", "a+rX", folder] == run.words[run.words.index("chmod") :][:4]
