"""docs/API.md is what the service and its proto file say today, and every example in it runs, in its order."""

import os
import re
import subprocess
import sys

import pytest

from loadtest.guide.__main__ import EXAMPLES, main
from loadtest.guide.grpc_reference import grpc_reference
from tests.processes import ROOT, service_process

PAGE = ROOT / "docs" / "API.md"
BLOCKS = re.compile(r"^```(sh|python)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PYTHON = ".venv-dev/bin/python"


def test_the_page_is_up_to_date(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["--out", str(tmp_path / "API.md")]) == 0
    assert (tmp_path / "API.md").read_text() == PAGE.read_text(), "make guide"


def test_every_link_within_the_page_leads_somewhere():
    text = PAGE.read_text()
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    places = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) - places == set()


@pytest.mark.slow
def test_every_example_runs(tmp_path, arithmetic_bundle):
    folder = tmp_path / "work"
    folder.mkdir()
    with service_process(arithmetic_bundle, tmp_path / "service.log", grpc_port=-1) as service:
        http, rpc = f"127.0.0.1:{service.port}", service.rpc_address
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        for kind, text in BLOCKS.findall(EXAMPLES.read_text()):
            here = text.replace(PYTHON, sys.executable).replace("127.0.0.1:8000", http).replace("127.0.0.1:50051", rpc)
            command = ["bash", "-euo", "pipefail", "-c"] if kind == "sh" else [sys.executable, "-W", "error", "-c"]
            done = subprocess.run(
                [*command, here], cwd=folder, env=variables, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert (folder / "restored.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    assert (folder / "restored.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "again.jpg").read_bytes().startswith(b"\xff\xd8\xff")


def test_a_line_of_the_proto_file_that_is_not_understood_is_an_error():
    with pytest.raises(ValueError, match="line 4 is not understood: extend Photo"):
        grpc_reference('// Says.\n\nsyntax = "proto3";\nextend Photo {\n')
