"""The door: who shows a known key comes in, and whatever else is shown is refused, not stumbled over."""

from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.accounts import Accounts
from service.access.caller import ANYBODY
from service.access.guard import Access, refuse_in_address
from service.access.key_file import KeyFile, UnusableKeys, read_entries
from service.brokers.memory_meter import MemoryMeter
from service.core.errors import Unauthenticated
from tests.api_keys import add_key, drop_key

SHOWN = st.lists(st.text() | st.binary().map(lambda data: data.decode("latin-1")), max_size=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def key(path):
    return add_key(path)


@pytest.fixture(scope="module")
def access(path, key):
    return Access(KeyFile(path, look_s=0), Accounts(MemoryMeter()))


def identify(access, authorization, api_key):
    try:
        return access.identify(authorization, api_key).owner
    except Unauthenticated:
        return None


@given(SHOWN, SHOWN)
def test_whatever_is_shown_is_a_refusal(access, authorization, api_key):
    assert identify(access, authorization, api_key) is None
    assert identify(access, [f"Bearer {text}" for text in authorization], api_key) is None


@given(st.text(min_size=1), st.integers(0, 58))
def test_whatever_is_put_into_a_key_makes_it_none(access, key, text, place):
    changed = key[:place] + text + key[place:]
    assert (identify(access, [], [changed]) is None) == (changed.strip() != key)


@given(st.integers(0, 57), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_character_of_a_key_can_be_another(access, key, place, other):
    changed = key[:place] + other + key[place + 1 :]
    assert (identify(access, [], [changed]) is None) == (changed != key)


def test_the_key_is_its_owner_s(access, key):
    assert identify(access, [f"Bearer {key}"], []) == "shop"
    assert identify(access, ["Bearer other"], [key]) == "shop"
    assert identify(access, [f"Bearer {key}"], ["other"]) is None


def test_where_no_keys_are_asked_for_everybody_is_nobody_in_particular():
    access = Access(None, Accounts(MemoryMeter()))
    assert access.identify([], []) is access.identify(["Basic x"], ["y", "z"]) is ANYBODY
    access.recheck(ANYBODY)


def test_a_key_that_was_shown_is_looked_for_again(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path)
    access = Access(KeyFile(path, look_s=0), Accounts(MemoryMeter()))
    caller = access.identify([], [key])
    access.recheck(caller)
    drop_key(path, key)
    with pytest.raises(Unauthenticated, match="not known any more"):
        access.recheck(caller)


@given(st.text())
def test_only_addresses_with_keys_are_refused(text):
    if "lpmrf_" not in unquote_plus(text):
        refuse_in_address(text)
    for address in (f"lpmrf_{text}", f"key={text}lpmrf_", f"key=lpmrf%5F{text}", f"{text}&key=%6cpmrf%5f"):
        with pytest.raises(Unauthenticated):
            refuse_in_address(address)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda value: repr(value).encode()))
def test_a_file_of_anything_is_refused_in_one_way(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(data)
    try:
        entries = read_entries(path)
    except UnusableKeys:
        return
    assert entries == ()
