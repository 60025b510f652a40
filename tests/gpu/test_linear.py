"""The loss from hidden states on a GPU, with the vocabulary of Qwen2.5, against the logits at once."""

import pytest
import torch
from torch import Tensor

from verl_lad import LADConfig, lad_loss
from verl_lad.objective import aggregation_weights, lad_linear_loss

from .conftest import DEVICE

pytestmark = pytest.mark.gpu
V, H = (151_936, 896) if DEVICE == "cuda" else (999, 32)
B, T = (8, 256) if DEVICE == "cuda" else (4, 32)


def head(dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(B, T, H, generator=generator, device=device)
    weight = torch.randn(V, H, generator=generator, device=device) / H**0.5
    labels = torch.randint(V, (B, T), generator=generator, device=device)
    mask = torch.arange(T, device=device) < torch.randint(T // 4, T, (B, 1), generator=generator, device=device)
    noise = torch.randn(B, T, generator=generator, device=device)
    with torch.no_grad():
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        log_prob = (hidden.float() @ weight.float().t()).log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return {
        "hidden": hidden.requires_grad_(),
        "lm_head_weight": weight.requires_grad_(),
        "labels": labels,
        "old_log_prob": log_prob + 0.1 * noise,
        "advantages": torch.randn(B, generator=generator, device=device),
        "response_mask": mask,
    }


def gradients(loss: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, (inputs["hidden"], inputs["lm_head_weight"]))


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_loss_and_gradients_are_those_of_the_logits_at_once(dtype, ratio, device):
    x, config = head(dtype, device), LADConfig(ratio=ratio)
    weights = aggregation_weights(x["response_mask"], "token-mean")
    ours = lad_linear_loss(**x, config=config, response_weights=weights)
    got = gradients(ours.loss, x)

    exact = {name: x[name].detach().double().requires_grad_() for name in ("hidden", "lm_head_weight")}
    rows = []
    for row in range(B):  # a response at a time: float64 logits of all would be 2 GB
        logits = exact["hidden"][row] @ exact["lm_head_weight"].t()
        rows.append(logits.log_softmax(-1).gather(-1, x["labels"][row].unsqueeze(-1)).squeeze(-1))
    matrix, _ = lad_loss(torch.stack(rows), x["old_log_prob"], x["advantages"], x["response_mask"], config)
    expected_loss = (matrix.sum(-1) * weights).sum()
    expected = torch.autograd.grad(expected_loss, tuple(exact.values()))

    tolerance = 2e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(ours.loss.double(), expected_loss, rtol=tolerance, atol=tolerance)
    for mine, other in zip(got, expected, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - other).norm() < tolerance * other.norm()


@pytest.mark.skipif(DEVICE != "cuda", reason="the allocator of CUDA counts")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_beside_the_gradients_is_half_of_that_of_the_logits_at_once(dtype, device):
    x = head(dtype, device)
    weights = aggregation_weights(x["response_mask"], "token-mean")

    def peak(compute) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        compute()
        return torch.cuda.max_memory_allocated() - before

    def at_once() -> None:
        logits = (x["hidden"] @ x["lm_head_weight"].t()).float()
        log_prob = logits.log_softmax(-1).gather(-1, x["labels"].unsqueeze(-1)).squeeze(-1)
        matrix, _ = lad_loss(log_prob, x["old_log_prob"], x["advantages"], x["response_mask"])
        gradients((matrix.sum(-1) * weights).sum(), x)

    def ours() -> None:
        gradients(lad_linear_loss(**x, config=LADConfig(), response_weights=weights).loss, x)

    at_once_bytes, our_bytes = peak(at_once), peak(ours)
    parameters = sum(x[name].numel() * x[name].element_size() for name in ("hidden", "lm_head_weight"))
    assert our_bytes - parameters < (at_once_bytes - parameters) / 2  # their gradients, which both make, apart
