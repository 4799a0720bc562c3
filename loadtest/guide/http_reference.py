"""An OpenAPI document in, a section of Markdown for each operation out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from loadtest.guide.markdown import paragraphs, table

Json = dict[str, Any]

_PROBLEM = "application/problem+json"
_EXACT = 2**53
_NOTHING_SAID = "Successful Response"


def http_reference(document: Json) -> str:
    """Every operation, then every schema, in the document's order."""
    operations = [
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [_schema(name, schema) for name, schema in document["components"]["schemas"].items()]
    return paragraphs("## HTTP", *operations, "## JSON", *schemas)


def problem_codes(document: Json) -> str:
    """Every code with the statuses it comes with, as the answers' examples show them."""
    found: dict[str, tuple[str, str, str]] = {}
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                for code, example in answer.get("content", {}).get(_PROBLEM, {}).get("examples", {}).items():
                    again = "yes" if example["value"]["retryable"] else "no"
                    found[code] = (status, again, example["summary"])
    rows = [(f"`{code}`", *facts) for code, facts in sorted(found.items(), key=lambda item: (item[1][0], item[0]))]
    return table(("code", "status", "try again", "meaning"), rows)


def _operation(method: str, path: str, operation: Json) -> str:
    parameters = [
        (f"`{given['name']}`", given["in"], _kind(given["schema"]), given.get("description", ""))
        for given in operation.get("parameters", [])
    ]
    return paragraphs(
        f"### `{method.upper()} {path}`",
        f"{operation['summary']}.".replace("?.", "?"),
        operation.get("description", ""),
        table(("parameter", "in", "type", "meaning"), parameters),
        _form(operation),
        table(("status", "answer"), _answers(operation)),
    )


def _form(operation: Json) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    return paragraphs(
        *(
            table((f"field of `{kind}`", "type", "default", "meaning"), _fields(body["schema"]))
            for kind, body in content.items()
        )
    )


def _fields(schema: Json) -> Iterator[tuple[str, str, str, str]]:
    needed = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in needed else _value(field["default"]) if "default" in field else ""
        yield f"`{name}`", _kind(field), default, field.get("description", "")


def _answers(operation: Json) -> Iterator[tuple[str, str]]:
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        codes = content.get(_PROBLEM, {}).get("examples", {})
        if codes:
            yield status, ", ".join(f"`{code}`" for code in codes)
            continue
        kinds = [f"`{kind}`{_of(body.get('schema', {}))}" for kind, body in content.items()]
        headers = [f"`{name}`" for name in answer.get("headers", {})]
        told = [answer.get("description", "").replace(_NOTHING_SAID, "Done.")]
        told += [f"As {', '.join(kinds)}."] if kinds else []
        told += [f"Headers: {', '.join(headers)}."] if headers else []
        yield status, " ".join(told)


def _schema(name: str, schema: Json) -> str:
    fields = ((name, kind, meaning) for name, kind, _, meaning in _fields(schema))
    values = ", ".join(f"`{value}`" for value in schema.get("enum", []))
    return paragraphs(
        f"### {name}", schema.get("description", ""), values, table(("member", "type", "meaning"), fields)
    )


def _of(schema: Json) -> str:
    return f" ({_kind(schema)})" if {"$ref", "anyOf", "oneOf"} & set(schema) else ""


def _kind(schema: Json) -> str:
    """The type of a value, with its bounds, as a reader would say it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_kind(option) for option in schema[key])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"list of {_kind(items)}"
    kind = str(schema.get("type", "any"))
    if kind == "string":  # of a number it is its width, for programs
        kind = str(schema.get("format", kind))
    words = (("minimum", "at least"), ("maximum", "at most"))
    bounds = [f"{word} {_number(schema[key])}" for key, word in words if key in schema]
    return ", ".join([kind, *bounds])


def _number(value: float) -> str:
    """A bound; JSON's numbers cannot tell the largest ones from their neighbours."""
    return f"2^{math.log2(value):.0f} - 1" if value > _EXACT else f"{value:.15g}"


def _value(value: object) -> str:
    return f"`{json.dumps(value)}`"
