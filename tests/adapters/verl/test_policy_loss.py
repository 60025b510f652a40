"""Our loss inside verl's real ppo_loss, as an actor worker calls it."""

import pytest
import torch
from tensordict import TensorDict
from torch.utils._python_dispatch import TorchDispatchMode
from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig
from verl.workers.utils.losses import ppo_loss

from verl_lad import LADConfig, lad_loss, lad_loss_reference
from verl_lad.adapters.verl.policy_loss import METRIC_NAMES, compute_policy_loss_lad
from verl_lad.adapters.verl.settings import LADPolicyLossConfig
from verl_lad.objective import aggregation_weights

AGG_MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"]
PROMPT_LENGTHS, RESPONSE_LENGTHS = [2, 3, 1, 4], [5, 1, 3, 4]
B, T = len(RESPONSE_LENGTHS), max(RESPONSE_LENGTHS)


def actor_config(settings: LADConfig, loss_agg_mode: str = "token-mean", **keys) -> FSDPActorConfig:
    return FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=2,
        ppo_micro_batch_size_per_gpu=1,
        loss_agg_mode=loss_agg_mode,
        policy_loss=LADPolicyLossConfig(loss_mode="lad", lad=settings),
        **keys,
    )


def nested(rows):
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


@pytest.fixture
def batch():
    """A micro-batch in verl's own form: nested tensors over prompt and response, some response tokens masked."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    response_mask = torch.zeros(B, T, dtype=torch.bool)
    for row, length in enumerate(RESPONSE_LENGTHS):
        response_mask[row, :length] = True
    response_mask[0, 2] = False  # as a tool's output within a response
    old_log_prob = -random(B, T).abs() * response_mask
    advantages = random(B, 1) * torch.ones(B, T)
    rollout_is_weights = random(B, T).exp()
    lengths = [p + r for p, r in zip(PROMPT_LENGTHS, RESPONSE_LENGTHS, strict=True)]
    model_log_prob = random(sum(lengths)).requires_grad_()

    def response_rows(x):
        return nested(row[:length] for row, length in zip(x, RESPONSE_LENGTHS, strict=True))

    data = TensorDict(
        {
            "prompts": nested(torch.ones(n, dtype=torch.long) for n in PROMPT_LENGTHS),
            "responses": nested(torch.ones(n, dtype=torch.long) for n in RESPONSE_LENGTHS),
            "response_mask": response_rows(response_mask),
            "old_log_probs": response_rows(old_log_prob),
            "advantages": response_rows(advantages),
            "rollout_is_weights": response_rows(rollout_is_weights),
        },
        batch_size=[B],
    )
    tu.assign_non_tensor(data, dp_size=2, batch_num_tokens=23, global_batch_size=8)
    ends = torch.tensor(lengths).cumsum(0)
    columns = [torch.arange(end - r - 1, end - 1) for end, r in zip(ends, RESPONSE_LENGTHS, strict=True)]
    log_prob = torch.zeros(B, T, dtype=torch.float64)
    for row, index in enumerate(columns):
        log_prob[row, : len(index)] = model_log_prob.detach()[index]
    return {
        "data": data,
        "model_output": {"log_probs": torch.nested.nested_tensor_from_jagged(model_log_prob, torch.tensor([0, *ends]))},
        "model_log_prob": model_log_prob,
        "columns": columns,
        "log_prob": log_prob,
        "old_log_prob": old_log_prob,
        "advantages": advantages,
        "response_mask": response_mask,
        "rollout_is_weights": rollout_is_weights,
        "global": {"dp_size": 2, "batch_num_tokens": 23, "global_batch_size": 8, "loss_scale_factor": None},
    }


@pytest.mark.parametrize("with_is_weights", [False, True], ids=["", "is-weights"])
@pytest.mark.parametrize("loss_agg_mode", AGG_MODES)
@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("divergence", ["js", "hellinger", "tv", "kl", "rkl", "jeffreys", "alpha"])
def test_gradient_of_verls_ppo_loss_is_that_of_the_reference(divergence, ratio, loss_agg_mode, with_is_weights, batch):
    settings = LADConfig(eta=0.5, divergence=divergence, ratio=ratio)
    data = batch["data"]
    weights = torch.ones(B, T, dtype=torch.float64)
    if with_is_weights:
        # one weight a response: verl's sequence-level IS; a weight of its own for each token fits ratio=token alone
        weights = batch["rollout_is_weights"] if ratio == "token" else batch["rollout_is_weights"][:, :1].expand(B, T)
        data["rollout_is_weights"] = nested(row[:n] for row, n in zip(weights, RESPONSE_LENGTHS, strict=True))
    else:
        data.pop("rollout_is_weights")
    loss, metrics = ppo_loss(actor_config(settings, loss_agg_mode), batch["model_output"], data)
    (gradient,) = torch.autograd.grad(loss, batch["model_log_prob"])

    log_prob = batch["log_prob"].clone().requires_grad_()
    matrix = lad_loss_reference(log_prob, batch["old_log_prob"], batch["advantages"], batch["response_mask"], settings)
    expected = agg_loss(matrix * weights, batch["response_mask"], loss_agg_mode, **batch["global"])
    (expected_gradient,) = torch.autograd.grad(expected, log_prob)

    ours = torch.zeros(B, T, dtype=torch.float64)
    for row, index in enumerate(batch["columns"]):
        ours[row, : len(index)] = gradient[index]
    torch.testing.assert_close(ours, expected_gradient, rtol=1e-10, atol=1e-12)
    outside = torch.ones_like(gradient, dtype=torch.bool)
    outside[torch.cat(batch["columns"])] = False
    assert not gradient[outside].any()
    assert set(METRIC_NAMES.values()) <= set(metrics)
    assert all(torch.isfinite(torch.tensor(metrics[name].aggregate())) for name in METRIC_NAMES.values())


@pytest.mark.parametrize("scale", [None, 7])
@pytest.mark.parametrize("of_the_global_batch", [False, True])
@pytest.mark.parametrize("loss_agg_mode", AGG_MODES)
@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
def test_the_loss_is_verls_aggregate_of_the_loss_matrix(ratio, loss_agg_mode, of_the_global_batch, scale, batch):
    settings = LADConfig(ratio=ratio)
    weights = batch["rollout_is_weights"]
    given = arguments(batch, settings, loss_agg_mode=loss_agg_mode, rollout_is_weights=weights)
    info = {**(batch["global"] if of_the_global_batch else {}), "loss_scale_factor": scale}
    given["config"].global_batch_info.update(info)
    loss, _ = compute_policy_loss_lad(**given)
    names = ("log_prob", "old_log_prob", "advantages", "response_mask")
    matrix, _ = lad_loss(*(batch[name] for name in names), settings)
    expected = agg_loss(matrix * weights, batch["response_mask"], loss_agg_mode, **info)
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss_agg_mode", AGG_MODES)
def test_aggregation_weights_are_those_of_verl(loss_agg_mode, batch):
    mask = batch["response_mask"].clone()
    mask[1] = False
    matrix = torch.randn(B, T, dtype=torch.float64)
    for info in ({}, {"batch_num_tokens": 23, "global_batch_size": 8}, {"loss_scale_factor": 7}):
        expected = agg_loss(matrix, mask, loss_agg_mode, **info)
        weights = aggregation_weights(
            mask,
            loss_agg_mode,
            num_tokens=info.get("batch_num_tokens"),
            num_responses=info.get("global_batch_size"),
            horizon=info.get("loss_scale_factor"),
        )
        torch.testing.assert_close(((matrix * mask).sum(-1) * weights).sum(), expected, rtol=1e-6, atol=1e-9)


def arguments(batch, settings=None, **changes):
    return {
        "old_log_prob": batch["old_log_prob"],
        "log_prob": batch["log_prob"].clone().requires_grad_(),
        "advantages": batch["advantages"],
        "response_mask": batch["response_mask"],
        "loss_agg_mode": "token-mean",
        "config": actor_config(settings or LADConfig()),
        "rollout_is_weights": None,
        **changes,
    }


def test_it_is_what_verl_finds_under_the_name():
    assert get_policy_loss_fn("lad") is compute_policy_loss_lad


def test_nothing_that_verl_shares_is_changed(batch):
    given = arguments(batch, rollout_is_weights=batch["rollout_is_weights"])
    before = {name: value.clone() for name, value in given.items() if isinstance(value, torch.Tensor)}
    loss, _ = compute_policy_loss_lad(**given)
    loss -= 0.5  # verl subtracts the entropy term in place (workers/utils/losses.py:128)
    loss.backward()
    for name, value in before.items():
        assert torch.equal(given[name], value), name


def test_importance_weights_get_no_gradient_and_may_hold_garbage_where_masked(batch):
    weights = batch["rollout_is_weights"].clone()
    clean, _ = compute_policy_loss_lad(**arguments(batch, rollout_is_weights=weights))
    dirty = torch.where(batch["response_mask"], weights, torch.nan).requires_grad_()
    given = arguments(batch, rollout_is_weights=dirty)
    loss, _ = compute_policy_loss_lad(**given)
    assert torch.equal(loss, clean)
    loss.backward()
    assert dirty.grad is None
    assert given["log_prob"].grad.isfinite().all()


def test_garbage_in_masked_slots_is_invisible(batch):
    clean = arguments(batch)
    loss, metrics = compute_policy_loss_lad(**clean)
    loss.backward()
    masked = ~batch["response_mask"]
    dirty = arguments(
        batch,
        log_prob=batch["log_prob"].masked_fill(masked, torch.nan).requires_grad_(),
        old_log_prob=batch["old_log_prob"].masked_fill(masked, torch.inf),
        advantages=batch["advantages"].masked_fill(masked, torch.nan),
    )
    dirty_loss, dirty_metrics = compute_policy_loss_lad(**dirty)
    dirty_loss.backward()
    assert torch.equal(loss, dirty_loss)
    assert metrics == dirty_metrics
    assert torch.equal(clean["log_prob"].grad, dirty["log_prob"].grad)


def test_a_micro_batch_without_any_token_has_no_gradient_and_finite_metrics(batch):
    given = arguments(batch, response_mask=torch.zeros(B, T, dtype=torch.bool))
    given["config"].global_batch_info.update(batch["global"])
    loss, metrics = compute_policy_loss_lad(**given)
    loss.backward()
    assert loss == 0
    assert not given["log_prob"].grad.any()
    assert all(value == 0 for value in metrics.values())


def test_the_gradient_of_a_global_batch_does_not_depend_on_the_split_into_micro_batches(batch):
    def gradient(splits):
        log_prob = batch["log_prob"].clone().requires_grad_()
        for rows in splits:
            given = arguments(batch, log_prob=log_prob[rows])
            for name in ("old_log_prob", "advantages", "response_mask"):
                given[name] = given[name][rows]
            given["config"].global_batch_info.update(batch["global"])
            compute_policy_loss_lad(**given)[0].backward()
        return log_prob.grad

    whole = gradient([slice(0, 4)])
    torch.testing.assert_close(gradient([slice(0, 1), slice(1, 4)]), whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient([slice(i, i + 1) for i in range(4)]), whole, rtol=1e-12, atol=1e-14)


class CountTransfers(TorchDispatchMode):
    """Counts what would stop a GPU: single values fetched, shapes that depend on data, copies to another device."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "_unique2"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_metrics_cost_one_transfer(batch, monkeypatch):
    fetched = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: fetched.append(tuple(self.shape)) or tolist(self))
    given = arguments(batch)
    given["config"].global_batch_info.update(batch["global"])
    with CountTransfers() as transfers:
        compute_policy_loss_lad(**given)
    assert transfers.names == []
    assert fetched == [(len(METRIC_NAMES),)]


def test_a_config_that_was_composed_without_our_keys_is_refused_with_the_remedy(batch):
    plain = FSDPActorConfig(strategy="fsdp2", rollout_n=2, ppo_micro_batch_size_per_gpu=1)
    for config in (plain, None):
        with pytest.raises(ValueError, match="verl-lad doctor"):
            compute_policy_loss_lad(**arguments(batch, config=config))


def test_each_process_says_once_that_it_trains_with_lad(batch, capsys):
    settings = LADConfig(eta=0.123)
    for _ in range(3):
        compute_policy_loss_lad(**arguments(batch, settings))
    lines = [line for line in capsys.readouterr().out.splitlines() if "policy loss lad" in line]
    assert len(lines) == 1
    assert "eta=0.123" in lines[0]
