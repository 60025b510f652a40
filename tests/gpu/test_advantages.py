"""Advantages with the scores on a GPU and the uids on the host."""

import time
import uuid

import pytest
import torch
from objective.formulas import DIVERGENCES, IDS

from verl_lad import LADConfig, group_advantages

pytestmark = pytest.mark.gpu
RESPONSES, GROUP = 65_536, 8


@pytest.fixture(scope="module")
def uids() -> list[str]:
    return [str(uuid.UUID(int=row // GROUP)) for row in range(RESPONSES)]


@pytest.mark.parametrize("settings", [{}, {"partition": "group"}, {"anchor": "reference"}], ids=str)
@pytest.mark.parametrize(("name", "alpha"), DIVERGENCES, ids=IDS)
def test_65536_responses_have_the_advantages_of_the_cpu(name, alpha, settings, uids, device):
    config = LADConfig(divergence=name, alpha=alpha, **settings)
    scores = torch.randn(RESPONSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    on_device = scores.to(device)
    start = time.monotonic()
    A = group_advantages(on_device, uids, config)
    assert A.device == on_device.device
    assert A.cpu().isfinite().all()
    assert time.monotonic() - start < 60
    torch.testing.assert_close(A.cpu(), group_advantages(scores, uids, config), rtol=1e-9, atol=1e-11)
