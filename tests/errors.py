"""The tree of errors, for tests that want to see every one."""

from service.core.errors import ServiceError


def _tree(root):
    return {root}.union(*(_tree(child) for child in root.__subclasses__()))


ERRORS = sorted(_tree(ServiceError), key=lambda error: error.code)
