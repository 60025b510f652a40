"""The loss, its diagnostics and the advantages on anything that a training run may hand them (any_input.py).

A few thousand cases here, 10^5 of the loss and 2 10^4 of the advantages in `make long`; the same ones in every run.
"""

import mpmath
import pytest
from hypothesis import given

from . import any_groups as groups
from .any_input import any_kind, cases_in_all, cases_of, check
from .exact import DIGITS, weight_and_value
from .formulas import DIVERGENCES, IDS
from .test_divergences import POINTS, digits
from .test_divergences import exact as from_the_definition


@pytest.mark.timeout(900)  # 15 s of a core that is its own
@cases_in_all(3000)
@given(kind=any_kind)
def test_the_loss_is_finite_exact_blind_to_what_is_masked_and_repeatable(kind):
    for case in cases_of(kind):
        check(case)


@pytest.mark.long
@pytest.mark.timeout(7200)
@cases_in_all(100_000)
@given(kind=any_kind)
def test_the_loss_is_so_in_1e5_cases(kind):
    for case in cases_of(kind):
        check(case)


@cases_in_all(1000)
@given(kind=groups.any_groups)
def test_advantages_are_finite_exact_and_repeatable_and_a_nan_stays_in_its_group(kind):
    for case in groups.groups_of(kind):
        groups.check(case)


@pytest.mark.long
@pytest.mark.timeout(7200)
@cases_in_all(20_000)
@given(kind=groups.any_groups)
def test_advantages_are_so_in_2e4_cases(kind):
    for case in groups.groups_of(kind):
        groups.check(case)


@pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
def test_the_closed_forms_that_judge_are_those_of_f_itself(name, alpha):
    for l, u in POINTS:
        with mpmath.workdps(digits(u)):
            g, value, _ = from_the_definition(name, alpha, l, u)
        with mpmath.workdps(DIGITS):
            closed_g, closed_value, size = weight_and_value(name, alpha, mpmath.mpf(l), mpmath.mpf(u))
            assert abs(closed_g - g) <= 1e-40 * abs(g) + 1e-55
            assert abs(closed_value - value) <= 1e-40 * size
