import dataclasses

import pytest

from latent_pmrf.evaluation.defaults import Margins, choose_defaults
from latent_pmrf.evaluation.floors import Floor, check_floors
from latent_pmrf.evaluation.scoring import BlendScores, FaceScores
from latent_pmrf.evaluation.summary import MeasuredFace, Summary, Variant, summarise, summarise_all, summarise_by_source

LEVELS = ("moderate", "severe")
SUMMARY = Summary(
    count=4,
    psnr=25.0,
    ssim=0.7,
    ms_ssim=0.8,
    sharpness=0.1,
    pooled_sharpness=0.1,
    colour_shift=1.0,
    blockiness=1.0,
    flat_grain=0.0,
    ind_rmse=0.02,
    identity=0.5,
    share_nearer=None,
    landmark_px=3.0,
)
INPUTS = dict.fromkeys(LEVELS, SUMMARY)


def blends(steps, psnr_at_0, sharpness_at_0, fidelities=(0.0, 0.5, 1.0)):
    """PSNR rises with fidelity by 2 dB, sharpness falls to 0."""
    return {
        (steps, fidelity): dict.fromkeys(
            LEVELS, BlendScores(psnr=psnr_at_0 + 2 * fidelity, ssim=0.71, sharpness=sharpness_at_0 * (1 - fidelity))
        )
        for fidelity in fidelities
    }


class Measure:
    """All other scores of good blends, but for `changes` of single ones, by (steps, fidelity)."""

    def __init__(self, changes=None):
        self.changes = changes or {}
        self.called = []

    def __call__(self, steps, fidelity):
        self.called.append((steps, fidelity))
        good = dataclasses.replace(SUMMARY, identity=0.3, share_nearer=0.95)
        return dict.fromkeys(LEVELS, dataclasses.replace(good, **self.changes.get((steps, fidelity), {})))


def test_fidelity_rises_until_psnr_holds():
    choice = choose_defaults(blends(5, 24.2, 0.4), INPUTS, Measure())
    assert (choice.num_steps, choice.fidelity) == (5, 0.5)
    assert choice.candidates[0].sharpness == pytest.approx(0.2)
    assert choice.candidates[0].reason == "at 0.00 moderate PSNR 24.20 dB is below 25.05"


def test_expensive_scores_are_measured_for_survivors_only():
    measure = Measure()
    choose_defaults(blends(5, 24.2, 0.4), INPUTS, measure)
    assert measure.called == [(5, 0.5)]


def test_the_sharpest_feasible_number_of_steps_wins():
    sweep = blends(1, 26.0, 0.1) | blends(5, 26.0, 0.3) | blends(25, 24.5, 0.5)
    choice = choose_defaults(sweep, INPUTS, Measure())
    assert (choice.num_steps, choice.fidelity) == (5, 0.0)
    assert [item.fidelity for item in choice.candidates] == [0, 0, 0.5]


def test_fewer_steps_win_among_the_nearly_sharpest():
    sweep = blends(2, 26.0, 0.294) | blends(10, 26.0, 0.3)
    assert choose_defaults(sweep, INPUTS, Measure()).num_steps == 2
    strict = Margins(sharpness_tolerance=0.01)
    assert choose_defaults(sweep, INPUTS, Measure(), strict).num_steps == 10


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("blockiness", 1.2, "blockiness 1.200 is above 1.100"),
        ("colour_shift", 2.1, "colour shift 2.100 is above 2.000"),
        ("flat_grain", 1.5, "flat grain 1.500 is above 1.000"),
        ("identity", 0.495, "identity distance 0.495 is above 0.490"),
        ("share_nearer", 0.7, "severe share of nearer faces 0.70 is below 0.80"),
    ],
)
def test_appearance_and_identity_raise_the_fidelity(field, value, reason):
    choice = choose_defaults(blends(5, 26.0, 0.4), INPUTS, Measure({(5, 0.0): {field: value}}))
    assert (choice.num_steps, choice.fidelity) == (5, 0.5)
    assert reason in choice.candidates[0].reason


def test_without_identity_the_rest_decides():
    inputs = dict.fromkeys(LEVELS, dataclasses.replace(SUMMARY, identity=None))
    measure = Measure({(5, 0.0): {"identity": None, "share_nearer": None}})
    assert choose_defaults(blends(5, 26.0, 0.4), inputs, measure).fidelity == 0


def test_nothing_feasible_is_said_so():
    choice = choose_defaults(blends(5, 20.0, 0.4), INPUTS, Measure())
    assert (choice.num_steps, choice.fidelity) == (None, None)
    assert choice.candidates[0].reason.startswith("at 1.00 moderate PSNR 22.00")


def test_ssim_counts_at_each_level():
    sweep = blends(5, 26.0, 0.4)
    sweep[5, 0.0] = sweep[5, 0.0] | {"severe": BlendScores(26.0, 0.701, 0.4)}
    choice = choose_defaults(sweep, INPUTS, Measure())
    assert choice.fidelity == 0.5
    assert choice.candidates[0].reason == "at 0.00 severe SSIM 0.7010 is below 0.7020"


def face(name, identity, psnr=20.0, source_set="house", sharpness=0.5, detail=1.0, ind_rmse=0.1):
    scores = FaceScores(psnr, 0.7, 0.8, sharpness, detail, 1.0, 1.0, 0.0, ind_rmse, identity, 3.0)
    return MeasuredFace(name, source_set, 0, scores)


def test_summaries_are_means():
    summary = summarise([face("a", 0.2, psnr=20.0), face("b", 0.4, psnr=30.0)])
    assert (summary.count, summary.psnr, summary.share_nearer) == (2, 25, None)
    assert summary.identity == pytest.approx(0.3)


def test_pooled_sharpness_weighs_by_detail():
    summary = summarise([face("soft", 0.2, sharpness=9.0, detail=0.1), face("sharp", 0.2, sharpness=0.5, detail=9.9)])
    assert summary.sharpness == pytest.approx(4.75)
    assert summary.pooled_sharpness == pytest.approx((0.9 + 4.95) / 10)


def test_share_nearer_compares_the_same_person():
    inputs = [face("a", 0.5), face("b", 0.3), face("c", 0.4)]
    outputs = [face("b", 0.4), face("a", 0.4), face("c", 0.39), face("c", 0.4)]
    assert summarise(outputs, inputs).share_nearer == pytest.approx(2 / 4)  # c with two seeds; equal is not nearer


def test_what_was_not_measured_everywhere_is_unknown():
    mixed = [face("a", 0.2), face("b", None, ind_rmse=None)]
    summary = summarise(mixed, [face("a", 0.3), face("b", 0.3)])
    assert (summary.identity, summary.ind_rmse, summary.share_nearer) == (None, None, None)


def test_no_faces_have_no_mean():
    with pytest.raises(ValueError, match="no faces"):
        summarise([])


def test_sources_are_summarised_apart():
    measured = {
        Variant("severe", "input"): [face("a", 0.5), face("b", 0.5, source_set="faker")],
        Variant("severe", "estimator"): [face("a", 0.4), face("b", 0.6, source_set="faker")],
    }
    every, parts = summarise_all(measured), summarise_by_source(measured)
    assert every[Variant("severe", "estimator")].share_nearer == 0.5
    assert {source: part[Variant("severe", "estimator")].share_nearer for source, part in parts.items()} == {
        "faker": 0,
        "house": 1,
    }


@pytest.mark.parametrize(
    ("value", "bound", "at_most", "passed"),
    [
        (2.0, 2.0, False, True),
        (1.9, 2.0, False, False),
        (2.0, 2.0, True, True),
        (2.1, 2.0, True, False),
        (None, 0.0, True, False),
    ],
)
def test_a_floor_holds_at_its_bound(value, bound, at_most, passed):
    assert Floor("any", value, bound, at_most).passed is passed


def good_summaries():
    better = dataclasses.replace(SUMMARY, psnr=25.5, ssim=0.72, identity=0.4, share_nearer=0.8)
    return {
        Variant("clean", "vae"): dataclasses.replace(SUMMARY, psnr=36.5, sharpness=0.7, pooled_sharpness=0.65),
        **{Variant(level, "input"): SUMMARY for level in LEVELS},
        **{Variant(level, "estimator"): dataclasses.replace(SUMMARY, psnr=27.0) for level in LEVELS},
        **{Variant(level, "default", 10, 0.5): better for level in LEVELS},
    }


def test_good_bundles_hold_every_floor():
    floors = check_floors(good_summaries(), (10, 0.5), 256)
    assert [floor.name for floor in floors if not floor.passed] == []
    assert len(floors) == 11


@pytest.mark.parametrize(
    ("variant", "changes", "missed"),
    [
        (Variant("clean", "vae"), {"psnr": 35.9}, "VAE reconstruction, PSNR (dB)"),
        (Variant("clean", "vae"), {"pooled_sharpness": 0.59}, "VAE reconstruction, sharpness"),
        (Variant("moderate", "estimator"), {"psnr": 25.9}, "moderate: estimator over input, PSNR (dB)"),
        (Variant("severe", "estimator"), {"psnr": 26.7}, "severe: estimator over input, PSNR (dB)"),
        (
            Variant("severe", "default", 10, 0.5),
            {"psnr": 24.9},
            "severe: default output, PSNR (dB), against the input's",
        ),
        (
            Variant("moderate", "default", 10, 0.5),
            {"ssim": 0.69},
            "moderate: default output, SSIM, against the input's",
        ),
        (
            Variant("severe", "default", 10, 0.5),
            {"identity": 0.51},
            "severe: default output, identity distance, against the input's",
        ),
        (Variant("severe", "default", 10, 0.5), {"share_nearer": 0.74}, "severe: share of faces nearer than the input"),
    ],
)
def test_each_floor_fails_alone(variant, changes, missed):
    summaries = good_summaries()
    summaries[variant] = dataclasses.replace(summaries[variant], **changes)
    assert [floor.name for floor in check_floors(summaries, (10, 0.5), 256) if not floor.passed] == [missed]


def test_a_bundle_of_full_size_is_asked_for_more_and_for_a_sample_that_is_worth_showing():
    good = dataclasses.replace(SUMMARY, psnr=27.6, identity=0.45, sharpness=0.2)
    sample = dataclasses.replace(SUMMARY, psnr=26.5, identity=0.45, sharpness=0.6)
    summaries = good_summaries() | {
        Variant("clean", "vae"): dataclasses.replace(SUMMARY, psnr=38.0, sharpness=0.8, pooled_sharpness=0.8),
        **{Variant(level, "estimator"): good for level in LEVELS},
        **{Variant(level, "sample", 10): sample for level in LEVELS},
    }
    floors = check_floors(summaries, (10, 0.5), 512)
    assert [floor.name for floor in floors if not floor.passed] == []
    assert len(floors) == 19
    summaries |= {
        Variant("moderate", "sample", 10): dataclasses.replace(sample, psnr=26.3, sharpness=1.3),
        Variant("severe", "sample", 10): dataclasses.replace(sample, identity=0.46, sharpness=0.59),
    }
    assert [floor.name for floor in check_floors(summaries, (10, 0.5), 512) if not floor.passed] == [
        "moderate: sample under its estimator, PSNR (dB)",
        "moderate: sample, sharpness, at most",
        "severe: sample, sharpness, at least",
        "severe: sample, identity distance, against its estimator's",
    ]
