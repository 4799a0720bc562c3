"""Keys: each is another one, none can be guessed, and only the whole key is the key."""

import pytest

from service.access.api_keys import KeyEntry, KeyRing, digest_of, new_key
from service.access.caller import Quota, Rate


def entry(key, key_id, **fields):
    return KeyEntry(id=key_id, name="shop", blake2b=digest_of(key), **fields)


@pytest.fixture(scope="module")
def made():
    return [new_key() for _ in range(50)]


@pytest.fixture(scope="module")
def ring(made):
    return KeyRing(tuple(entry(key, key_id) for key, key_id in made))


def test_keys_can_be_recognised_and_have_256_random_bits(made):
    for key, key_id in made:
        assert key.startswith(f"lpmrf_{key_id}_")
        assert len(key.removeprefix(f"lpmrf_{key_id}_")) == 43  # of 6 bits
    assert len({key[15:] for key, _ in made}) == len(made)


def test_every_key_is_found_by_itself(ring, made):
    assert [ring.find(key).id for key, _ in made] == [key_id for _, key_id in made]


def test_nothing_else_is_found(ring, made):
    (first, first_id), (second, second_id) = made[:2]
    others = [
        "",
        first_id,
        digest_of(first),
        first[:-1],
        first + "A",
        first + "\n",
        " " + first,
        first.upper(),
        first.replace(first_id, second_id),
        second.replace(second_id, first_id),
        first.replace("lpmrf_", ""),
        f"lpmrf_{first_id}_",
        f"lpmrf_{first_id}_{digest_of(first)[:43]}",
        "lpmrf_" + "0" * 8 + "_" + "A" * 43,
        new_key()[0],
        "\ud800",
        "ü" * 58,
    ]
    assert [ring.find(other) for other in others] == [None] * len(others)


def test_what_is_kept_of_a_key_leads_back_to_nothing(made):
    key, key_id = made[0]
    kept = entry(key, key_id)
    assert key[15:] not in kept.model_dump_json()
    assert kept.blake2b not in repr(kept)


def test_two_keys_with_one_id_are_a_mistake(made):
    key, key_id = made[0]
    with pytest.raises(ValueError, match="same id"):
        KeyRing((entry(key, key_id), entry(made[1][0], key_id)))


def test_an_entry_says_how_much_its_owner_may_ask_for(made):
    key, key_id = made[0]
    assert entry(key, key_id).caller().rate is None
    assert entry(key, key_id).caller().quota is None
    caller = entry(key, key_id, requests_per_s=2.5, quota_face_px=10).caller()
    assert (caller.owner, caller.key_id) == ("shop", key_id)
    assert (caller.rate, caller.quota) == (Rate(2.5, 3), Quota(10, 86400.0))
    assert entry(key, key_id, requests_per_s=0.01).rate == Rate(0.01, 1)
    assert entry(key, key_id, requests_per_s=5, burst=50).rate == Rate(5, 50)


@pytest.mark.parametrize(
    "fields",
    [
        {"requests_per_s": 0},
        {"requests_per_s": 1e-300},
        {"requests_per_s": -1},
        {"requests_per_s": float("nan")},
        {"requests_per_s": float("inf")},
        {"burst": 5},
        {"requests_per_s": 1, "burst": 0},
        {"quota_face_px": 0},
        {"quota_window_s": 0},
        {"quota_face_px": 1, "quota_window_s": float("inf")},
        {"name": ""},
        {"name": "a b"},
        {"name": "a\n"},
        {"name": "-rf"},
        {"name": "a" * 65},
        {"name": "a\0b"},
        {"blake2b": "AB" * 32},
        {"id": "../../etc"},
        {"admin": True},
    ],
    ids=str,
)
def test_an_entry_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValueError, match="validation error"):
        KeyEntry(**{"id": "0" * 8, "name": "shop", "blake2b": "0" * 64, **fields})
