"""Bytes and back."""

import contextlib
import string

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.brokers.codec import VERSION, decode, encode
from service.core import errors
from service.core.errors import ServiceError
from service.core.jobs import Failure, Notice, PhotoJob, Progress
from service.core.origin import Origin
from service.core.types import (
    Background,
    FaceJob,
    FacePreview,
    FaceReport,
    FaceSelection,
    FaceStatus,
    Lane,
    OutputFormat,
    Report,
    Restoration,
    RestoredFace,
    RestoreOptions,
    Tone,
    Upload,
)
from tests.fakes import face_job
from tests.job_queues import photo

HALF_A_STEP = 1 / 131070
FLOAT32_ROUNDING = 2**-23

words = st.text(max_size=12)
reals = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**31)
seeds = st.integers(0, 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | reals | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
names = st.text(string.ascii_lowercase, min_size=1, max_size=8).filter(
    lambda name: name not in ("detail", "hint", "self")
)
sizes = st.integers(1, 4)
origins = st.builds(Origin, request_id=words, traceparent=words, tracestate=words, sent_s=reals)
face_jobs = sizes.flatmap(
    lambda size: st.builds(
        FaceJob,
        job_id=words,
        face_index=counts,
        crop=arrays.arrays(np.uint8, (size, size, 3)),
        num_steps=counts,
        seed=seeds,
        lane=st.sampled_from(Lane),
        deadline_s=st.none() | reals,
        origin=st.none() | origins,
        preview_every=counts,
        tone=st.builds(Tone, gain=reals, offset=reals),
    )
)
pictures = sizes.map(lambda size: (size, size, 3)).flatmap(
    lambda shape: st.tuples(*[arrays.arrays(np.float32, shape, elements=st.floats(0, 1, width=32))] * 2)
)
options = st.builds(
    RestoreOptions,
    fidelity=st.none() | reals,
    num_steps=st.none() | counts,
    seed=st.none() | seeds,
    faces=st.sampled_from(FaceSelection),
    max_faces=st.none() | counts,
    det_threshold=reals,
    min_face_px=counts,
    aligned=st.booleans(),
    upscale=reals,
    background=st.sampled_from(Background),
    output_format=st.none() | st.sampled_from(OutputFormat),
    quality=st.none() | counts,
)
photo_jobs = st.builds(
    PhotoJob,
    job_id=words,
    upload=st.builds(Upload, st.binary()),
    options=options,
    lane=st.sampled_from(Lane),
    deadline_s=reals,
    webhook_url=st.none() | words,
    origin=st.none() | origins,
    keep_upload=st.booleans(),
    previews=st.booleans(),
)
face_reports = st.builds(
    FaceReport,
    index=counts,
    box=st.tuples(reals, reals, reals, reals),
    landmarks_5=st.none() | st.tuples(*[st.tuples(reals, reals)] * 5),
    score=st.none() | reals,
    status=st.sampled_from(FaceStatus),
    reason=st.none() | words,
    ind_rmse=st.none() | reals,
)
reports = st.builds(
    Report,
    id=words,
    model=words,
    width=counts,
    height=counts,
    seed=seeds,
    num_steps=counts,
    fidelity=reals,
    faces=st.lists(face_reports, max_size=3).map(tuple),
    timings_ms=st.dictionaries(words, reals, max_size=3),
    output_format=st.sampled_from(OutputFormat),
)
plain_messages = st.one_of(
    photo_jobs,
    st.builds(Restoration, data=st.binary(), report=reports),
    st.builds(Progress, counts, counts, counts, counts),
    st.builds(Notice, words, words, st.binary(), counts, st.none() | origins),
    origins,
    st.builds(FacePreview, words, counts, counts, counts, st.binary(), st.just(()) | st.tuples(*[reals] * 6)),
    st.builds(Failure, words, words, words, st.dictionaries(words, json_values, max_size=3)),
)
error_kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]


@given(face_jobs)
def test_a_face_job_arrives_as_it_was_sent(job):
    arrived = decode(FaceJob, encode(job))
    assert (arrived.crop == job.crop).all()
    assert arrived.crop.dtype == np.uint8
    for field in ("key", "num_steps", "seed", "lane", "deadline_s", "origin"):
        assert getattr(arrived, field) == getattr(job, field)
    assert isinstance(arrived.lane, Lane)


@given(pictures, st.dictionaries(words, reals, max_size=3), counts)
def test_a_restored_face_arrives_within_half_a_step_of_16_bits(pair, timings_ms, index):
    arrived = decode(RestoredFace, encode(RestoredFace("a", index, *pair, timings_ms)))
    assert (arrived.job_id, arrived.face_index, arrived.timings_ms) == ("a", index, timings_ms)
    for sent, picture in zip(pair, (arrived.sample, arrived.posterior_mean), strict=True):
        assert picture.dtype == np.float32
        assert np.abs(picture.astype(np.float64) - sent).max() <= HALF_A_STEP + FLOAT32_ROUNDING


def test_pixels_of_8_and_16_bits_arrive_exactly():
    every = (np.arange(65536, dtype=np.float32) / np.float32(65535)).reshape(256, 256, 1)
    arrived = decode(RestoredFace, encode(RestoredFace("a", 0, every, every[::-1])))
    assert (arrived.sample == every).all()
    assert (arrived.posterior_mean == every[::-1]).all()


def test_pixels_outside_the_range_are_brought_inside():
    wild = np.array([[[-0.5, 0.5, 1.5]]], np.float32)
    arrived = decode(RestoredFace, encode(RestoredFace("a", 0, wild, wild)))
    assert arrived.sample.ravel().tolist() == pytest.approx([0.0, 0.5, 1.0], abs=HALF_A_STEP)


@given(plain_messages)
def test_every_other_message_arrives_equal(message):
    assert decode(type(message), encode(message)) == message


@given(st.sampled_from(error_kinds), words, words, st.dictionaries(names, json_values, max_size=3))
def test_an_error_arrives_as_what_it_was(kind, detail, hint, extra):
    arrived = decode(Failure, encode(Failure.of(kind(detail, hint=hint, **extra)))).to_error()
    assert type(arrived) is kind
    assert (arrived.detail, arrived.hint, arrived.extra) == (detail, hint, extra)


def test_an_error_of_a_kind_that_is_not_known_here_is_a_plain_one():
    arrived = Failure("from_the_future", "what happened", "what to do", {"n": 1}).to_error()
    assert type(arrived) is ServiceError
    assert (arrived.detail, arrived.hint, arrived.extra) == ("what happened", "what to do", {"n": 1})


def test_another_version_is_told_from_damage():
    fields = msgpack.unpackb(encode(Progress(1, 0, 4, 2)))
    later = msgpack.packb({**fields, "version": VERSION + 1})
    with pytest.raises(ServiceError, match=f"version {VERSION + 1}.*reads Progress of version {VERSION}") as told:
        decode(Progress, later)
    assert "release" in told.value.hint


def test_a_field_that_came_later_is_passed_over():
    fields = msgpack.unpackb(encode(Progress(1, 0, 4, 2)))
    assert decode(Progress, msgpack.packb({**fields, "eta_s": 3.5})) == Progress(1, 0, 4, 2)


@pytest.mark.parametrize("message", [face_job(), photo("a")], ids=["face", "photo"])
def test_a_sender_that_knows_no_origins_is_understood(message):
    fields = msgpack.unpackb(encode(message))
    del fields["origin"]
    assert decode(type(message), msgpack.packb(fields)).origin is None


def test_an_origin_that_is_none_is_damage():
    fields = msgpack.unpackb(encode(face_job()))
    for wrong in (7, ["req-1"], {"request_id": 7}):
        with pytest.raises(ServiceError, match="damaged"):
            decode(FaceJob, msgpack.packb({**fields, "origin": wrong}))


def test_another_kind_is_refused():
    with pytest.raises(ServiceError, match="Progress"):
        decode(Notice, encode(Progress(1, 0, 4, 2)))


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(data):
    for kind in (FaceJob, RestoredFace, PhotoJob, Failure):
        with pytest.raises(ServiceError):
            decode(kind, data)


@given(plain_messages | face_jobs, st.data())
def test_damage_is_refused_or_harmless(message, data):
    sent = bytearray(encode(message))
    at = data.draw(st.integers(0, len(sent) - 1))
    sent[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ServiceError):
        decode(type(message), bytes(sent))
    with pytest.raises(ServiceError):
        decode(type(message), bytes(sent[:-1]))
