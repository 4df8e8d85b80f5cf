"""RandAugment, AutoAugment and color jitter: parsing, and the distribution of what is drawn."""

from collections import Counter

import numpy as np
import pytest
import torch
from timm.data import auto_augment as timm_augment

from stvit_video.data.augment.operations import OPERATIONS, ColorJitter
from stvit_video.data.augment.policy import parse_policy
from stvit_video.errors import UserError

RAND = "rand-m7-n4-mstd0.5-inc1"
AUTO = "original-mstd0.5"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def policy_of(text):
    return parse_policy(text, interpolation="bilinear")


def clip(frames=4):
    coarse = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8, generator=generator())
    return coarse.expand(-1, frames, -1, -1)


AUGMENTATIONS = {
    RAND: policy_of(RAND),
    AUTO: policy_of(AUTO),
    "color jitter": ColorJitter(0.4),
}


def ops_of(policy):
    return [[(op.name, op.probability, op.level) for op in ops] for ops in policy.sub_policies]


@pytest.mark.parametrize("text", [RAND, "rand-m9-mstd0.5-inc1", "rand-n3-inc0", "rand"])
def test_rand_augment_is_parsed_as_in_timm(text):
    policy, timms = policy_of(text), timm_augment.rand_augment_transform(text, {})
    assert ops_of(policy) == [[(op.name, op.prob, op.magnitude)] for op in timms.ops]
    assert policy.num_draws == timms.num_layers
    assert {policy.level_std} == {op.magnitude_std for op in timms.ops}


@pytest.mark.parametrize("text", [AUTO, "original", "originalr-mstd1"])
def test_auto_augment_is_parsed_as_in_timm(text):
    policy, timms = policy_of(text), timm_augment.auto_augment_transform(text, {})
    without_level = {"AutoContrast", "Equalize", "Invert"}

    def comparable(ops):
        return [(n, p, None if n in without_level else level) for n, p, level in ops]

    expected = [[(op.name, op.prob, op.magnitude) for op in pair] for pair in timms.policy]
    assert [comparable(ops) for ops in ops_of(policy)] == [comparable(ops) for ops in expected]
    assert {policy.level_std} == {op.magnitude_std for pair in timms.policy for op in pair}
    assert policy.num_draws == 1


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("rand-m7-x3", "x3"),
        ("rand-m11", "m11"),
        ("rand-n0", "n0"),
        ("rand-n1.5", "n1.5"),
        ("rand-inc2", "inc2"),
        ("rand-m7-m8", "m8"),
        ("rand-m-1", "m"),
        ("rand-m7-", ""),
        ("rand-mstdinf", "mstdinf"),
        ("rand-M7", "M7"),
        ("rand- m7", " m7"),
    ],
)
def test_an_invalid_option_is_named_with_the_valid_ones(text, wrong):
    with pytest.raises(UserError) as caught:
        policy_of(text)
    assert str(caught.value) == (
        f'AUG.AA_TYPE "{text}" has an invalid option "{wrong}"; the options after "rand", joined '
        'by "-" and each at most once, are: m (level, 0 to 10), n (operations per clip, from 1), '
        "mstd (standard deviation of the level), inc (0 or 1: whether a higher level is always "
        "stronger)"
    )


def test_auto_augment_has_fewer_options():
    with pytest.raises(UserError, match=r'invalid option "m7"; .* once, are: mstd \([^,]*\)$'):
        policy_of("original-m7")


@pytest.mark.parametrize("text", ["randaugment", "v0", "-rand", "Rand-m9"])
def test_an_unknown_policy_is_an_error_that_names_the_valid_ones(text):
    with pytest.raises(UserError, match=r'AUG\.AA_TYPE must begin with "rand" .* "originalr"'):
        policy_of(text)


def test_rand_augment_draws_operations_uniformly_and_applies_half_of_them():
    policy, draws = policy_of(RAND), generator()
    drawn = [policy.draw(generator=draws) for _ in range(4000)]
    counts = Counter(op.name for ops in drawn for op in ops)
    assert set(counts) == {op.name for (op,) in policy.sub_policies}
    # 4000 clips of 4 operations, each one of 15 with probability 1 / 2: 533, within 5 deviations.
    assert all(abs(count - 16000 / 30) < 5 * 22.7 for count in counts.values())
    numbers = Counter(map(len, drawn))
    assert [numbers[n] / 4000 for n in range(5)] == pytest.approx(
        [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], abs=0.03
    )


def test_auto_augment_applies_operations_with_their_probabilities():
    policy, draws = policy_of("original"), generator()
    counts = Counter(op.name for _ in range(6000) for op in policy.draw(generator=draws))
    expected = Counter()
    for sub_policy in policy.sub_policies:
        for op in sub_policy:
            expected[op.name] += 6000 * op.probability / 25
    assert set(counts) == {name for name, count in expected.items() if count}
    for name, count in counts.items():
        assert abs(count - expected[name]) < 5 * expected[name] ** 0.5 + 5


def test_levels_are_normal_and_clamped_and_signs_are_balanced():
    draws = generator()
    rotations = [
        op.argument / 3
        for _ in range(8000)
        for op in policy_of("rand-m9-n1-mstd0.5").draw(generator=draws)
        if op.name == "Rotate"
    ]
    levels = np.abs(rotations)
    assert abs(np.mean(np.sign(rotations))) < 0.25
    assert levels.max() == 10  # 2 deviations above 9, 2.3 % of the draws
    assert 0.003 < np.mean(levels == 10) < 0.06
    assert levels.mean() == pytest.approx(9, abs=0.12)
    assert levels[levels < 10].std() == pytest.approx(0.47, abs=0.1)
    draw = policy_of("rand-m4-n1").draw
    arguments = {
        op.argument for _ in range(500) for op in draw(generator=draws) if op.name == "ShearX"
    }
    assert arguments == {OPERATIONS["ShearX"].argument(4.0), OPERATIONS["ShearX"].argument(-4.0)}


def test_color_jitter_draws_factors_and_order():
    draws = generator()
    drawn = [ColorJitter(0.4).draw(generator=draws) for _ in range(1200)]
    orders = Counter(tuple(op.name for op in ops) for ops in drawn)
    assert len(orders) == 6
    assert all(abs(count - 200) < 5 * 13 for count in orders.values())
    factors = np.array([op.argument for ops in drawn for op in ops])
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4
    assert factors.mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_clip_keeps_its_shape_and_its_frames_change_equally(name):
    video = clip()
    outputs = [AUGMENTATIONS[name](video, generator=generator(seed)) for seed in range(40)]
    for output in outputs:
        assert (output.shape, output.dtype) == (video.shape, torch.uint8)
        assert torch.equal(output, output[:, :1].expand_as(output))
    assert sum(not torch.equal(output, video) for output in outputs) > 20


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_all_randomness_comes_from_the_generator(name):
    video, augment = clip(), AUGMENTATIONS[name]
    first = [augment(video, generator=generator(seed)) for seed in range(8)]
    torch.manual_seed(5)
    again = [augment(video, generator=generator(seed)) for seed in range(8)]
    assert all(map(torch.equal, first, again))
    assert len({output.numpy().tobytes() for output in first}) > 4
