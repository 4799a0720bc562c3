"""Build hook: service/rpc/restoration.proto in; messages, stubs and their types beside it out.

It runs for wheels and for editable installations, so that the generated files are there wherever the service is; git
ignores them.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTO = "service/rpc/restoration.proto"


class GenerateProtocol(BuildHookInterface[Any]):
    """Runs the compiler; what it prints goes to the build's log."""

    def initialize(self, _version: str, _build_data: dict[str, Any]) -> None:
        """Generate before files are collected.

        Raises:
            RuntimeError: The compiler refuses the file.
        """
        well_known = resources.files("grpc_tools") / "_proto"
        kinds = ("python", "grpc_python", "mypy", "mypy_grpc")
        outputs = [f"--{kind}_out={'quiet:' if 'mypy' in kind else ''}{self.root}" for kind in kinds]
        source = f"{self.root}/{PROTO}"
        if protoc.main(["protoc", f"-I{self.root}", f"-I{well_known}", *outputs, source]) != 0:
            raise RuntimeError(f"{PROTO} cannot be compiled")
