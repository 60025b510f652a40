"""Trinity's own policy loss of a worker, with what its configuration makes of LAD's keys."""

import torch
from tensordict import TensorDict
from trinity.common.config import Config
from trinity.common.config_validator import AlgorithmConfigValidator
from trinity.trainer.verl.losses import TrinityPolicyLoss
from verl.utils import tensordict_utils as tu

ALGORITHM = "verl_lad.adapters.trinity.LADAlgorithm"
PROMPT_LENGTHS, RESPONSE_LENGTHS = [2, 3, 1, 4], [5, 1, 3, 4]
B, T = len(RESPONSE_LENGTHS), max(RESPONSE_LENGTHS)
MASK = torch.arange(T) < torch.tensor(RESPONSE_LENGTHS).unsqueeze(-1)
MASK[0, 2] = False  # as a tool's output within a response


def validated(loss_agg_mode: str | None = None, algorithm: dict | None = None, **args) -> Config:
    """A configuration with policy_loss_fn_args, and more of the section algorithm, after Trinity's validation."""
    config = Config()
    config.algorithm.repeat_times = 4
    for key, value in (algorithm or {}).items():
        setattr(config.algorithm, key, value)
    config.algorithm.algorithm_type = ALGORITHM
    config.algorithm.loss_agg_mode = loss_agg_mode
    config.algorithm.kl_loss_fn = "none"
    config.algorithm.policy_loss_fn_args = args or None
    AlgorithmConfigValidator().validate(config)
    return config


def batch(generator) -> dict[str, torch.Tensor]:
    old = -torch.rand(B, T, generator=generator, dtype=torch.float64) - 0.5
    return {
        "log_prob": old + 0.3 * torch.randn(B, T, generator=generator, dtype=torch.float64),
        "old_log_prob": old,
        "advantages": torch.randn(B, 1, generator=generator, dtype=torch.float64).expand(B, T).clone(),
    }


def nested(rows):
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def gradient(config: Config, tensors):
    """One micro-batch through TrinityPolicyLoss, in the nested form in which verl's engine calls it.

    Returns:
        (B, T) gradient of the log-probabilities, and the metrics.
    """
    lengths = [p + r for p, r in zip(PROMPT_LENGTHS, RESPONSE_LENGTHS, strict=True)]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    columns = [torch.arange(end - r - 1, end - 1) for end, r in zip(ends, RESPONSE_LENGTHS, strict=True)]
    flat = torch.zeros(sum(lengths), dtype=torch.float64)
    for row, index in enumerate(columns):
        seen = tensors["log_prob"][row, : len(index)]
        flat[index] = seen.masked_fill(~MASK[row, : len(index)], torch.nan)
    flat.requires_grad_()

    def response_rows(x):
        return nested(row[:length] for row, length in zip(x, RESPONSE_LENGTHS, strict=True))

    data = TensorDict(
        {
            "prompts": nested(torch.ones(n, dtype=torch.long) for n in PROMPT_LENGTHS),
            "responses": nested(torch.ones(n, dtype=torch.long) for n in RESPONSE_LENGTHS),
            "response_mask": response_rows(MASK),
            "old_log_probs": response_rows(tensors["old_log_prob"].masked_fill(~MASK, torch.nan)),
            "advantages": response_rows(tensors["advantages"].masked_fill(~MASK, torch.nan)),
        },
        batch_size=[B],
    )
    tu.assign_non_tensor(data, dp_size=1)
    log_probs = torch.nested.nested_tensor_from_jagged(flat, torch.tensor([0, *ends]))
    loss, metrics = TrinityPolicyLoss(config.algorithm)({"log_probs": log_probs}, data)
    loss.backward()
    gradient = torch.zeros(B, T, dtype=torch.float64)
    for row, index in enumerate(columns):
        gradient[row, : len(index)] = flat.grad[index]
    return gradient, metrics
