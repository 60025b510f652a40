"""Advantages of real generate steps: lad_anchor and lad_partition, against `group_advantages` and by hand.

RecordingTrainer takes the scores and both log-probabilities by its own plain forward passes, outside of TRL's code.
"""

import math

import peft
import pytest
import torch
from datasets import Dataset
from trl import GRPOTrainer

from verl_lad import LADConfig, group_advantages
from verl_lad.objective import DIAGNOSTICS

from .tiny_trainer import RecordingTrainer, make_model, make_trainer, parameters, reward, score

ETA = 0.2
REFERENCE = LADConfig(eta=ETA, anchor="reference")
ANCHORED = {"lad_anchor": "reference", "lad_eta": ETA, "per_device_train_batch_size": 8}


def equal(ours, wanted):
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


def mass_one(a):
    """Subtract from each row of (groups, size) advantages what gives exp(A / eta) the mean one."""
    return a - ETA * (a / ETA).exp().mean(1, keepdim=True).log()


def balanced(a):
    """Subtract from each row of (groups, size) advantages what makes the weights of js at rho = 1 sum to zero."""
    u = a.double() / ETA
    low, high = u.amin(1, keepdim=True), u.amax(1, keepdim=True)
    for _ in range(100):  # by bisection: f'(X) = 1/2 log(2 X / (1 + X)) at X = exp(-u), up to a factor
        middle = (low + high) / 2
        too_low = torch.nn.functional.softplus(u - middle).mean(1, keepdim=True) > math.log(2)
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    return (ETA * (u - middle)).to(a.dtype)


PARTITIONS = {"group": mass_one, "balanced": balanced}


def anchored_by_hand(scores, log_ratio, size=4, partition="balanced"):
    a = (scores.double() - ETA * log_ratio.double()).view(-1, size)
    return PARTITIONS[partition](a).flatten().float()


def groups_of(rows, size=4):
    return torch.arange(rows) // size


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"num_iterations": 2},
        {"steps_per_generation": 2},
        {"gradient_accumulation_steps": 2},
        {"gradient_accumulation_steps": 2, "steps_per_generation": 1},
    ],
    ids=str,
)
def test_anchored_advantages_are_those_of_the_tensors_that_trl_produced(tmp_path, schedule):
    trainer = make_trainer(tmp_path, RecordingTrainer, **ANCHORED, **schedule)
    trainer.train()
    first, *later = trainer.produced
    assert not first["log_ratio"].any(), "the policy is the reference before the first update"
    assert later[-1]["log_ratio"].abs().max() > 0.1
    for batch in trainer.produced:
        equal(batch["advantages"], anchored_by_hand(batch["scores"], batch["log_ratio"]))
        anchored_scores = batch["scores"] - ETA * batch["log_ratio"]
        equal(batch["advantages"], group_advantages(anchored_scores, groups_of(len(anchored_scores)), REFERENCE))
        mask = batch["completion_mask"]
        equal(batch["old_per_token_logps"] * mask, batch["old"] * mask)
        assert "ref_per_token_logps" not in batch


@pytest.mark.parametrize("partition", PARTITIONS)
def test_an_anchored_target_has_the_partition_that_was_chosen(tmp_path, partition):
    trainer = make_trainer(tmp_path, RecordingTrainer, lad_partition=partition, max_steps=3, **ANCHORED)
    trainer.train()
    for batch in trainer.produced:
        equal(batch["advantages"], anchored_by_hand(batch["scores"], batch["log_ratio"], partition=partition))


def test_the_anchor_holds_a_reference_that_stands_still_and_adds_no_kl_to_the_loss(tmp_path):
    trainer = make_trainer(tmp_path, RecordingTrainer, **ANCHORED)
    assert (trainer.beta, trainer.args.beta) == (ETA, ETA)
    before = parameters(trainer.ref_model)
    assert torch.equal(before, parameters(trainer.model))
    trainer.train()
    assert torch.equal(before, parameters(trainer.ref_model))
    assert not torch.equal(before, parameters(trainer.model))
    assert (trainer.beta, trainer.args.beta) == (ETA, ETA)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert not any("kl" in entry for entry in logs)
    for entry, batch in zip(logs, trainer.produced, strict=True):
        assert math.isclose(entry["lad/reference_kl"], batch["log_ratio"].mean(), abs_tol=1e-4)


def test_without_the_anchor_no_reference_is_held(tmp_path):
    assert make_trainer(tmp_path).ref_model is None
    assert make_trainer(tmp_path, lad_partition="group").ref_model is None


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_partition_shifts_trls_own_advantages_in_each_group(
    tmp_path, monkeypatch, scale_rewards, aggregation, partition
):
    trls_own = []
    generate = GRPOTrainer._generate_and_score_completions

    def recording(self, inputs):
        output = generate(self, inputs)
        trls_own.append(output["advantages"].clone())
        return output

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", recording)
    trainer = make_trainer(
        tmp_path, RecordingTrainer, lad_partition=partition, lad_eta=ETA, per_device_train_batch_size=8,
        scale_rewards=scale_rewards, multi_objective_aggregation=aggregation,
    )  # fmt: skip
    trainer.train()
    for batch, unmoved in zip(trainer.produced, trls_own, strict=True):
        ours, theirs = batch["advantages"].view(-1, 4), unmoved.view(-1, 4)
        equal(ours, PARTITIONS[partition](theirs))
        if partition == "group":
            equal((ours / ETA).exp().mean(1), torch.ones(2))


def test_without_partition_and_anchor_the_advantages_are_trls(tmp_path, monkeypatch):
    trls_own = []
    generate = GRPOTrainer._generate_and_score_completions
    monkeypatch.setattr(
        GRPOTrainer,
        "_generate_and_score_completions",
        lambda self, inputs: trls_own.append(generate(self, inputs)) or dict(trls_own[-1]),
    )
    trainer = make_trainer(tmp_path, RecordingTrainer, per_device_train_batch_size=8, max_steps=2)
    trainer.train()
    for batch, theirs in zip(trainer.produced, trls_own, strict=True):
        assert torch.equal(batch["advantages"], theirs["advantages"])


def test_several_rewards_are_summed_by_their_weights(tmp_path):
    def length(completions, **_):
        return [float(len(text)) for text in completions]

    trainer = make_trainer(
        tmp_path, RecordingTrainer, reward_funcs=[reward, length], reward_weights=[2.0, 0.1], **ANCHORED
    )
    trainer.train()
    for batch in trainer.produced:
        texts = trainer.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
        scores = torch.tensor([2 * score(text) + 0.1 * len(text) for text in texts])
        equal(batch["advantages"], anchored_by_hand(scores, batch["log_ratio"]))


@pytest.mark.parametrize(
    "settings", [{}, {"lad_partition": "group"}, {"lad_partition": "balanced"}, {"lad_anchor": "reference"}], ids=str
)
def test_what_nothing_scored_is_left_out_of_its_group_and_of_the_loss(tmp_path, settings):
    def choosy(completions, **_):
        return [None if "4" in text else score(text) for text in completions]

    keys = {"lad_eta": ETA, "per_device_train_batch_size": 8, "scale_rewards": "none"}
    trainer = make_trainer(tmp_path, RecordingTrainer, reward_funcs=choosy, **keys, **settings)
    trainer.train()
    config = LADConfig(
        eta=ETA, partition=settings.get("lad_partition", "none"), anchor=settings.get("lad_anchor", "old")
    )
    seen = 0
    for batch in trainer.produced:
        texts = trainer.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
        unscored = torch.tensor(["4" in text for text in texts])
        assert torch.equal(batch["advantages"].isnan(), unscored)
        scores = batch["scores"] - (ETA * batch["log_ratio"] if "lad_anchor" in settings else 0.0)
        groups = groups_of(len(texts))[~unscored]
        wanted = group_advantages(scores[~unscored], groups, config, norm_by_std=False)
        several = groups.bincount(minlength=2)[groups] > 1  # TRL's own baseline of a single one is itself
        equal(batch["advantages"][~unscored][several], wanted[several])
        seen += int(unscored.sum())
    assert seen > 0
    assert torch.isfinite(parameters(trainer.model)).all()


def test_truncated_completions_that_are_masked_have_no_part_in_the_anchored_group(tmp_path):
    trainer = make_trainer(tmp_path, RecordingTrainer, mask_truncated_completions=True, **ANCHORED)
    trainer.train()
    seen = 0
    for batch in trainer.produced:
        kept = batch["completion_mask"].any(-1)
        seen += int((~kept).sum())
        anchored_scores = batch["scores"] - ETA * batch["log_ratio"]
        wanted = group_advantages(anchored_scores[kept], groups_of(8)[kept], REFERENCE)
        several = groups_of(8)[kept].bincount(minlength=2)[groups_of(8)[kept]] > 1
        equal(batch["advantages"][kept][several], wanted[several])
        assert not batch["advantages"][~kept].any()
    assert seen > 0


def test_an_infinite_reward_is_refused_with_the_name_of_its_function(tmp_path):
    def logarithm(completions, **_):
        return [math.log(score(text)) if score(text) > 0 else -math.inf for text in completions]

    trainer = make_trainer(tmp_path, reward_funcs=[reward, logarithm])
    with pytest.raises(ValueError, match=r"^logarithm returned an infinite reward: allowed is a finite number"):
        trainer.train()


def test_single_responses_may_be_evaluated_while_groups_are_trained_on(tmp_path):
    prompts = Dataset.from_dict({"prompt": ["1+1=", "2+1=", "3+1="]})
    trainer = make_trainer(
        tmp_path, RecordingTrainer, eval_dataset=prompts, num_generations_eval=1, per_device_eval_batch_size=3,
        eval_strategy="steps", eval_steps=1, num_iterations=2, max_steps=4, **ANCHORED,
    )  # fmt: skip
    trainer.train()
    evaluations = [batch for batch in trainer.produced if len(batch["scores"]) == 3]
    trainings = [batch for batch in trainer.produced if len(batch["scores"]) == 8]
    assert (len(evaluations), len(trainings)) == (4, 2)
    for batch in trainings:
        equal(batch["advantages"], anchored_by_hand(batch["scores"], batch["log_ratio"]))
    for batch in evaluations:
        equal(batch["advantages"], torch.zeros(3))
    logs = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert all(math.isfinite(entry[f"eval_lad/{name}"]) for entry in logs for name in DIAGNOSTICS)


def test_evaluation_has_groups_of_its_own_size(tmp_path):
    prompts = Dataset.from_dict({"prompt": ["1+1=", "2+1=", "3+1="]})
    trainer = make_trainer(
        tmp_path, RecordingTrainer, eval_dataset=prompts, num_generations_eval=2, per_device_eval_batch_size=6,
        max_steps=2, **ANCHORED,
    )  # fmt: skip
    trainer.train()
    trainer.produced.clear()
    metrics = trainer.evaluate()
    (batch,) = trainer.produced
    assert batch["log_ratio"].abs().max() > 0.1
    equal(batch["advantages"], anchored_by_hand(batch["scores"], batch["log_ratio"], size=2))
    assert math.isclose(metrics["eval_lad/reference_kl"], batch["log_ratio"].mean(), abs_tol=1e-4)


def test_the_completions_table_shows_the_advantages_that_are_trained_on(tmp_path):
    trainer = make_trainer(tmp_path, RecordingTrainer, max_steps=3, **ANCHORED)
    trainer.train()
    assert list(trainer._logs["advantages"]) == trainer.produced[-1]["advantages"].tolist()


@pytest.mark.parametrize("adapter", ["new", "trained before"])
def test_with_peft_the_reference_is_the_adapter_as_it_was(tmp_path, adapter):
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM")
    if adapter == "new":
        trainer = make_trainer(tmp_path, RecordingTrainer, peft_config=lora, **ANCHORED)
    else:
        torch.manual_seed(1)
        model = peft.get_peft_model(make_model(tmp_path), lora)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)
        trainer = make_trainer(tmp_path, RecordingTrainer, model=model, **ANCHORED)
    trainer.train()
    assert trainer.ref_model is None
    first, *later = trainer.produced
    equal(first["log_ratio"], torch.zeros(8))
    assert later[-1]["log_ratio"].abs().max() > 1e-2
    for batch in trainer.produced:
        equal(batch["advantages"], anchored_by_hand(batch["scores"], batch["log_ratio"]))
