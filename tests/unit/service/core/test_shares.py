import pytest

from service.core.shares import Shares


def test_a_named_owner_has_so_much_and_others_what_they_like():
    shares = Shares(3)
    for _ in range(3):
        assert shares.allow("anna")
        shares.take("anna")
    assert not shares.allow("anna")
    assert shares.allow("bert", 3)
    shares.take("", 100)
    assert shares.allow("", 100)
    assert (shares.of("anna"), shares.of("bert"), shares.total) == (3, 0, 103)


def test_a_single_thing_may_have_any_size():
    shares = Shares(3)
    assert shares.allow("anna", 50)
    with shares.held("anna", 50):
        assert not shares.allow("anna")
    assert Shares(0).allow("anna")


def test_whatever_ends_the_block_gives_back():
    shares = Shares(3)

    def lost():
        with shares.held("anna", 2):
            assert not shares.allow("anna", 2)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        lost()
    assert (shares.of("anna"), shares.total) == (0, 0)


def test_who_holds_most_and_who_comes_with_as_much():
    shares = Shares(10)
    for owner in "abb":
        shares.take(owner)
    assert [shares.largest(comer) for comer in "abc"] == ["a", "b", "b"]
    shares.give_back("b", 2)
    assert [shares.largest(comer) for comer in "abc"] == ["a", "a", "a"]
