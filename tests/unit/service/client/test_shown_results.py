from service.client.results import Restored


def test_a_result_that_is_shown_does_not_show_its_bytes():
    assert repr(Restored(b"x" * 100_000, "image/jpeg", None)) == "Restored(media_type='image/jpeg', report=None)"
