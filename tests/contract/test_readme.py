"""The README says what is: its commands exist, its tables are the code's."""

import os
import re
from pathlib import Path

from service.api.problems import catalogue
from service.core.options import option_schemas
from service.core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def table_under(heading):
    section = README.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def make_targets(text):
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", text, flags=re.MULTILINE))


def test_make_commands_exist():
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", README))
    assert named - make_targets((ROOT / "Makefile").read_text()) == set()
    assert {"serve", "test"} <= named


def test_every_make_command_is_listed():
    listed = {row[0].strip("`").removeprefix("make ") for row in table_under("## Commands")}
    assert listed == make_targets((ROOT / "Makefile").read_text()) - {"help"}


def test_ci_runs_what_the_readme_says():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^make .*$", script.read_text(), flags=re.MULTILINE) == ["make lint", "make test"]
    assert "`.ci/run` runs `make lint` and `make test`" in README


def test_options_table_is_the_code_s():
    rows = {row[0].strip("`"): row[2].strip("`") for row in table_under("## Options")}
    stated = {name: schema.get("default") for name, schema in option_schemas().items()}
    shown = {name: str(default).lower() for name, default in stated.items() if default is not None}
    assert list(rows) == list(stated)
    assert {name: rows[name] for name in shown} == shown


def test_errors_table_is_the_code_s():
    rows = {row[0].strip("`"): (int(row[1]), row[2] == "yes") for row in table_under("## Errors")}
    stated = {code: (entry["status"], entry["retryable"]) for code, entry in catalogue().items()}
    assert rows == stated


def test_settings_table_is_the_code_s():
    rows = {row[0].strip("`"): row[1].strip("`").replace(" ", "") for row in table_under("## Settings")}
    assert set(rows) == {f"LATENT_PMRF_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        assert rows[f"LATENT_PMRF_{name.upper()}"] == str(field.default)


def test_files_it_shows_exist():
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert [path for path in linked if not (ROOT / path).exists()] == []
