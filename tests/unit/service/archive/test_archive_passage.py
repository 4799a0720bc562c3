import errno

from service.archive import passage
from service.client import errors


def test_a_photo_that_cannot_be_read_is_told_as_the_client_tells_it():
    for error in (PermissionError(errno.EACCES, "Permission denied"), OSError("the store does not answer")):
        told = passage.unreadable(error)
        assert told == errors.unreadable(error).as_document()
        assert told["retryable"]
