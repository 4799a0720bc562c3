"""`latent-pmrf keys`: makes, lists and revokes API keys in the keys file.

A new key is shown once, on standard output and nowhere else; the file gets its digest.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from service.access.api_keys import DAY_S, KeyEntry, digest_of, new_key
from service.access.key_file import UnusableKeys, edited, read_entries


def add_arguments(keys: argparse.ArgumentParser) -> None:
    """Declare them; `run` reads them."""
    actions = keys.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    new = actions.add_parser("new", help="make a key, and print it once")
    new.add_argument("--name", required=True, help="its owner; several keys of one name share jobs, rate and quota")
    new.add_argument("--rate", metavar="N", type=float, help="requests a second; default: any number")
    new.add_argument("--burst", metavar="N", type=int, help="requests at once; default: those of one second")
    told = "pixels of photos times faces restored, in one window; default: any number"
    new.add_argument("--quota", metavar="FACE_PX", type=int, help=told)
    new.add_argument("--window", metavar="SECONDS", type=float, default=DAY_S, help="default: a day")
    listing = actions.add_parser("list", help="what is known of the keys")
    revoke = actions.add_parser("revoke", help="let a key count no more")
    revoke.add_argument("id", help="as `list` shows it; in a key it stands between two underscores")
    for action in (new, listing, revoke):
        action.add_argument("--file", type=Path, help="the keys file; default: LATENT_PMRF_API_KEYS_FILE")


def run(given: argparse.Namespace, path: Path, console: Console) -> None:
    """Do what the command line asks for.

    Args:
        given: What `add_arguments` declares.
        path: The keys file.
        console: Told what was done.

    Raises:
        UnusableKeys: The file cannot be used, a value is wrong, or there is no such key.
    """
    if given.action == "new":
        key, entry = _make(given)
        with edited(path) as entries:
            entries.append(entry)
        console.print(f"Key {entry.id} of {entry.name}. It is shown once; keep it:", highlight=False, markup=False)
        sys.stdout.write(f"{key}\n")
    elif given.action == "list":
        sys.stdout.writelines(f"{line}\n" for line in _lines(read_entries(path)))
    else:
        with edited(path) as entries:
            left = [entry for entry in entries if entry.id != given.id]
            if len(left) == len(entries):
                raise UnusableKeys(f"{path} has no key with the id {given.id[:80]}")
            entries[:] = left
        console.print(f"Key {given.id} is revoked.", highlight=False, markup=False)


def _make(given: argparse.Namespace) -> tuple[str, KeyEntry]:
    key, key_id = new_key()
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        return key, KeyEntry(
            id=key_id,
            name=given.name,
            blake2b=digest_of(key),
            created=created,
            requests_per_s=given.rate,
            burst=given.burst,
            quota_face_px=given.quota,
            quota_window_s=given.window,
        )
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise UnusableKeys(f"{'.'.join(map(str, first['loc'])) or 'the key'}: {first['msg']}") from None


def _lines(entries: Sequence[KeyEntry]) -> Iterator[str]:
    """The keys as a table with tabs: for people, and for `cut` and `awk`."""
    yield "id\tname\tcreated\trequests_per_s\tburst\tquota_face_px\tquota_window_s"
    for entry in entries:
        rate, quota = entry.rate, entry.quota
        often = ("", "") if rate is None else (f"{rate.per_s:g}", str(rate.burst))
        much = ("", "") if quota is None else (str(quota.face_px), f"{quota.window_s:g}")
        yield "\t".join((entry.id, entry.name, entry.created, *often, *much))
