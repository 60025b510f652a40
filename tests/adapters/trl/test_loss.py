"""LADTrainer._compute_loss on given tensors: what TRL does around the loss stays TRL's.

That the bare loss is the reference's, for every divergence and aggregation: ../test_same_gradient.py.
"""

import pytest
import torch
import trl
from trl import GRPOConfig, GRPOTrainer

from verl_lad import LADConfig, lad_loss_reference
from verl_lad.adapters.trl.config import AGGREGATIONS
from verl_lad.objective import DIAGNOSTICS

from .tiny_trainer import make_trainer

B, T = 4, 6
RATIOS = {"token": "dapo", "sequence": "luspo", "geometric": "grpo"}
RATIOS_AND_AGGREGATIONS = [(ratio, loss_type) for ratio, types in AGGREGATIONS.items() for loss_type in types]


@pytest.fixture
def batch():
    """Ragged, with a tool's tokens within two responses, and NaN wherever it is masked; float64."""
    gen = torch.Generator().manual_seed(1)

    def random():
        return torch.rand(B, T, generator=gen, dtype=torch.float64)

    old = -random() - 0.5
    completion_mask = (torch.arange(T) < torch.tensor([[6], [4], [3], [5]])).long()
    tool_mask = torch.ones(B, T, dtype=torch.long)
    tool_mask[0, 2] = tool_mask[3, 1:3] = 0
    mask = completion_mask * tool_mask
    made = {
        "log_prob": (old + 0.5 * torch.randn(B, T, generator=gen, dtype=torch.float64)).requires_grad_(),
        "old": old,
        "entropies": random().requires_grad_(),
        "aux_loss": random().mean().requires_grad_(),
        "advantages": torch.tensor([1.2, -0.7, 0.3, -1.1], dtype=torch.float64),
        "mask": mask,
        "reference": old + 0.2 * random(),
        "weights": random() + 0.5,
        "sampler": old + 0.1 * random(),
    }
    masked = {key: made[key].masked_fill(mask == 0, torch.nan) for key in ("old", "reference", "weights", "sampler")}
    made["inputs"] = {
        "prompt_ids": torch.ones(B, 2, dtype=torch.long), "prompt_mask": torch.ones(B, 2, dtype=torch.long),
        "completion_ids": torch.ones(B, T, dtype=torch.long), "completion_mask": completion_mask,
        "tool_mask": tool_mask, "advantages": made["advantages"], "old_per_token_logps": masked["old"],
        "ref_per_token_logps": masked["reference"], "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    made["masked"] = masked
    return made


@pytest.fixture
def gradient_of(batch, monkeypatch):
    """gradient_of(trainer): of its loss on the batch, whose log-probabilities stand for the model's.

    gradient_of(trainer, "entropies") and (trainer, "aux_loss") are the gradients in these.
    """

    def run(trainer, name: str = "log_prob", accumulation: int = 1) -> torch.Tensor:
        trainer.current_gradient_accumulation_steps = accumulation
        trainer.model.train()
        inputs, outside = batch["inputs"], batch["mask"] == 0
        if type(trainer) is GRPOTrainer:  # which does not stop NaN
            inputs = {k: v.nan_to_num(0.0) if v.is_floating_point() else v for k, v in inputs.items()}
            outside = torch.zeros_like(outside)
        outputs = *(batch[key].masked_fill(outside, torch.nan) for key in ("log_prob", "entropies")), batch["aux_loss"]
        before = dict(batch["inputs"])
        with monkeypatch.context() as patch:
            patch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", lambda *_, **__: outputs)
            loss = trainer._compute_loss(trainer.model, inputs)
        assert all(batch["inputs"][key] is before[key] for key in before), "TRL uses the buffered batch again"
        batch["loss"] = loss.detach()
        (gradient,) = torch.autograd.grad(loss, batch[name])
        return gradient

    return run


def reference_gradient(batch, ratio="token", weights=1.0, advantages=None):
    advantages = batch["advantages"] if advantages is None else advantages
    mask = batch["mask"]
    matrix = lad_loss_reference(
        batch["log_prob"], batch["old"], advantages[:, None].expand(B, T), mask, LADConfig(ratio=ratio)
    )
    matrix = matrix * weights * mask
    sums = matrix.sum(-1)
    total = {"dapo": sums.sum() / mask.sum(), "luspo": sums.mean(), "grpo": (sums / mask.sum(-1)).mean()}[RATIOS[ratio]]
    (gradient,) = torch.autograd.grad(total, batch["log_prob"])
    return gradient


def equal(gradient, wanted):
    assert wanted.abs().max() > 1e-4
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_vllms_importance_weights_multiply_the_loss(tmp_path, batch, gradient_of, ratio, level):
    if (level, ratio) in (("token", "sequence"), ("token", "geometric")):
        pytest.skip("a weight for each token of a response's own loss has no reference")
    trainer = make_trainer(tmp_path, lad_ratio=ratio, loss_type=RATIOS[ratio])
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    weights = batch["weights"] if level == "token" else batch["weights"][:, :1]
    batch["inputs"]["importance_sampling_ratio"] = batch["masked"]["weights"] if level == "token" else weights
    equal(gradient_of(trainer), reference_gradient(batch, ratio, weights))


def test_top_entropy_quantile_keeps_the_gradient_of_these_tokens_alone(tmp_path, batch, gradient_of):
    trainer = make_trainer(tmp_path, top_entropy_quantile=0.4)
    kept = trainer.get_high_entropy_mask(batch["entropies"], batch["mask"], 0.6)
    assert 0 < kept.sum() < batch["mask"].sum()
    equal(gradient_of(trainer), reference_gradient(batch, weights=kept))


@pytest.mark.parametrize("sampler", ["old", "vllm"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_off_policy_mask_drops_what_trls_own_drops(tmp_path, batch, gradient_of, ratio, sampler):
    threshold = 0.0 if sampler == "old" else 0.1
    trainer = make_trainer(tmp_path, lad_ratio=ratio, loss_type=RATIOS[ratio], off_policy_mask_threshold=threshold)
    if sampler == "vllm":
        batch["inputs"]["sampling_per_token_logps"] = batch["masked"]["sampler"]
    kept = GRPOTrainer.get_off_policy_mask(
        batch["advantages"][:, None],
        batch["log_prob"],
        batch["old" if sampler == "old" else "sampler"],
        batch["mask"],
        threshold,
    )
    assert 0 < kept[batch["advantages"] < 0].sum() < 2, "one of the two bad responses is off-policy"
    equal(gradient_of(trainer), reference_gradient(batch, ratio, weights=kept))


@pytest.mark.parametrize("bias_corrected", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("ratio", "loss_type"), RATIOS_AND_AGGREGATIONS)
def test_beta_adds_the_gradient_of_grpos_own_kl_and_no_other(
    tmp_path, batch, gradient_of, ratio, loss_type, bias_corrected, accumulation
):
    batch["inputs"]["num_items_in_batch"] *= 3 * accumulation

    def added(**which):
        keys = {"loss_type": loss_type, "use_bias_correction_kl": bias_corrected, "steps_per_generation": 4}
        with_kl, without = (make_trainer(tmp_path, **which, **keys, beta=beta) for beta in (0.3, 0.0))
        assert with_kl.ref_model is not None
        return gradient_of(with_kl, accumulation=accumulation) - gradient_of(without, accumulation=accumulation)

    kl = added(trainer=GRPOTrainer, config=GRPOConfig)
    equal(added(lad_ratio=ratio), kl)


@pytest.mark.parametrize(("ratio", "loss_type"), RATIOS_AND_AGGREGATIONS)
def test_an_update_is_divided_by_its_own_tokens_whatever_a_generation_holds(
    tmp_path, batch, gradient_of, ratio, loss_type
):
    """A generation of four micro-batches and updates of two: the sum over an update is a mean over its tokens."""
    batch["inputs"]["num_items_in_batch"] *= 4
    keys = {"lad_ratio": ratio, "loss_type": loss_type}
    four = gradient_of(make_trainer(tmp_path, **keys, steps_per_generation=4), accumulation=2)
    batch["inputs"]["num_items_in_batch"] = batch["mask"].sum()
    equal(2 * four, gradient_of(make_trainer(tmp_path, **keys)))


def test_old_log_prob_is_the_policys_own_where_trl_leaves_it_out(tmp_path, batch, gradient_of):
    del batch["inputs"]["old_per_token_logps"]
    batch["old"] = batch["log_prob"].detach()
    equal(gradient_of(make_trainer(tmp_path)), reference_gradient(batch))


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_response_that_nothing_scored_moves_nothing(tmp_path, batch, gradient_of, ratio):
    batch["inputs"]["advantages"] = batch["advantages"].clone()
    batch["inputs"]["advantages"][1] = torch.nan
    scored = torch.tensor([[1.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    gradient = gradient_of(make_trainer(tmp_path, lad_ratio=ratio, loss_type=RATIOS[ratio]))
    equal(gradient, reference_gradient(batch, ratio, weights=scored))
    assert not gradient[1].any()


def test_advantages_may_be_given_for_each_token(tmp_path, batch, gradient_of):
    batch["inputs"]["advantages"] = batch["advantages"][:, None].expand(B, T).clone()
    equal(gradient_of(make_trainer(tmp_path)), reference_gradient(batch))


@pytest.mark.parametrize("distance", [30.0, 1e4, torch.inf])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_far_policy_gives_finite_gradients(tmp_path, batch, gradient_of, distance, beta):
    batch["inputs"]["old_per_token_logps"] = batch["masked"]["old"] - torch.tensor(
        [[distance], [min(distance, 1e4)], [0.0], [0.0]]
    )
    batch["inputs"]["ref_per_token_logps"] = batch["reference"]
    assert gradient_of(make_trainer(tmp_path, beta=beta)).isfinite().all()


def test_metrics_are_the_diagnostics_and_nothing_is_called_clipped(tmp_path, batch, gradient_of):
    trainer = make_trainer(tmp_path, epsilon=1e-3)
    gradient_of(trainer)
    metrics = trainer._metrics["train"]
    assert {name for name in metrics if name.startswith("lad/")} == {f"lad/{name}" for name in DIAGNOSTICS}
    assert metrics["lad/log_ratio_abs_max"][0] > 0.1
    assert not any("clip" in name for name in metrics)


def test_metrics_are_means_over_all_processes_but_for_the_largest_log_ratio(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    trainer.model.train()
    other_process = torch.tensor([[[7.0, 1.0], [0.0, 0.0], [5.0, 2.0]]])
    monkeypatch.setattr(trainer.accelerator, "gather", lambda pairs: torch.cat([pairs, other_process]))
    number = torch.tensor
    diagnostics = {"log_ratio_abs_max": (number(3.0), number(1.0)), "weight_pos": (number(0.0), number(0.0))}
    trainer._log_means(diagnostics, {"entropy": (number(1.0), number(6))})
    logged = {name: trainer._metrics["train"][name] for name in ("lad/log_ratio_abs_max", "lad/weight_pos", "entropy")}
    assert logged == {"lad/log_ratio_abs_max": [7.0], "lad/weight_pos": [0.0], "entropy": [6 / 8]}


@pytest.mark.parametrize("quantile", [1.0, 0.4])
def test_entropy_bonus_is_grpos_own(tmp_path, batch, gradient_of, quantile):
    def bonus(**which):
        keys = {"entropy_coef": 0.1, "top_entropy_quantile": quantile}
        trainer = make_trainer(tmp_path, **which, **keys)
        gradient = gradient_of(trainer, "entropies", accumulation=3)
        return gradient, trainer._metrics["train"]["entropy_coef"], trainer._metrics["train"]["entropy"]

    (ours, coefficient, mean), (theirs, *grpos) = bonus(), bonus(trainer=GRPOTrainer, config=GRPOConfig)
    equal(ours, theirs)
    assert coefficient == pytest.approx(grpos[0])
    assert mean == pytest.approx(grpos[1])


def test_router_loss_is_grpos_own(tmp_path, batch, gradient_of):
    def routers(**which):
        trainer = make_trainer(tmp_path, **which)
        trainer.aux_loss_enabled, trainer.router_aux_loss_coef = True, 0.2
        return gradient_of(trainer, "aux_loss", accumulation=3), trainer._metrics["train"]["aux_loss"]

    (ours, mean), (theirs, grpos) = routers(), routers(trainer=GRPOTrainer, config=GRPOConfig)
    equal(ours, theirs)
    assert mean == pytest.approx(grpos)


@pytest.mark.parametrize(("ratio", "loss_type"), RATIOS_AND_AGGREGATIONS)
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_policy_loss_is_logged_before_it_is_divided_for_accumulation(
    tmp_path, batch, gradient_of, ratio, loss_type, beta
):
    trainer = make_trainer(tmp_path, lad_ratio=ratio, loss_type=loss_type, beta=beta)
    gradient_of(trainer, accumulation=3)
    assert trainer._metrics["train"]["policy_loss"] == pytest.approx([3 * batch["loss"].item()])


def test_another_release_of_trl_is_warned_of(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trl, "__version__", "1.17.0")
    make_trainer(tmp_path)
    assert "TRL 1.17.0: this trainer was tried with 1.16.0 alone" in caplog.text
