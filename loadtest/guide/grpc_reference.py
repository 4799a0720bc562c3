"""The text of a proto file in, a section of Markdown for each call and message out, with the file's own comments.

Read line by line, as `restoration.proto` is written: one declaration or one comment on a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from loadtest.guide.markdown import paragraphs, table

_BLOCK = re.compile(r"(service|message|enum|oneof) (\w+) \{(\})?")
_CALL = re.compile(r"rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\);")
_FIELD = re.compile(r"((?:optional |repeated )?[\w.]+|map<\w+, [\w.]+>) (\w+) = (\d+);")
_VALUE = re.compile(r"(\w+) = (\d+);")


@dataclass(slots=True)
class Block:
    """A service, message or enumeration.

    Attributes:
        kind: Which of them.
        name: Its name.
        comment: What the file says above it.
        members: Calls, fields or values: name, type, comment.
    """

    kind: str
    name: str
    comment: str
    members: list[tuple[str, str, str]] = field(default_factory=list)


def grpc_reference(text: str) -> str:
    """The file's own introduction, then every call, message and enumeration.

    Raises:
        ValueError: A line is not understood.
    """
    introduction, _, rest = text.partition("\nsyntax = ")
    blocks = list(_blocks(rest.splitlines()[1:], introduction.count("\n") + 3))
    sections = []
    for block in blocks:
        if block.kind == "service":
            sections += [f"### {block.name}", block.comment]
            sections += [paragraphs(f"#### {name}", f"`{kind}`", told) for name, kind, told in block.members]
        else:
            header = ("value", "number", "meaning") if block.kind == "enum" else ("field", "type", "meaning")
            rows = [(f"`{name}`", kind, told) for name, kind, told in block.members]
            sections.append(paragraphs(f"### {block.name}", block.comment, table(header, rows)))
    return paragraphs("## gRPC", _told(introduction.splitlines()), *sections)


def _blocks(lines: Sequence[str], first: int) -> Iterator[Block]:
    """What lines declare, of which the first has this number in the file."""
    open_blocks: list[Block] = []
    comment: list[str] = []
    for number, line in enumerate(map(str.strip, lines), first):
        if line.startswith("//"):
            comment.append(line)
            continue
        if begun := _BLOCK.fullmatch(line):
            kind, name, ended = begun.groups()
            block = Block(kind, name, _told(comment))
            if kind != "oneof":
                yield block
            if not ended:  # the members of a choice are the message's, whose last block it is
                open_blocks.append(open_blocks[-1] if kind == "oneof" else block)
        elif line == "}":
            open_blocks.pop()
        elif open_blocks and (member := _member(line)):
            open_blocks[-1].members.append((*member, _told(comment)))
        elif line and not line.startswith(("syntax", "package", "import", "option", "reserved")):
            raise ValueError(f"line {number} is not understood: {line}")
        comment = []


def _member(line: str) -> tuple[str, str] | None:
    if call := _CALL.fullmatch(line):
        name, streamed, request, answered, response = call.groups()
        return name, f"{name}({streamed or ''}{request}) returns ({answered or ''}{response})"
    if found := _FIELD.fullmatch(line):
        return found[2], f"{found[1]}, {found[3]}"
    if found := _VALUE.fullmatch(line):
        return found[1], found[2]
    return None


def _told(lines: list[str]) -> str:
    """Comment lines without their marks; an empty one parts paragraphs."""
    return "\n".join(line.strip().removeprefix("//").removeprefix(" ") for line in lines).strip()
