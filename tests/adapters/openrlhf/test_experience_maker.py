"""LADExperienceMaker in OpenRLHF's real make_experience_batch; the models are functions, and Ray hands results on."""

import logging
from types import SimpleNamespace

import pytest
import torch
from openrlhf.trainer.ppo_utils import experience_maker
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController

from verl_lad import LADConfig, group_advantages
from verl_lad.adapters.openrlhf.arguments import OUTCOME_ESTIMATORS
from verl_lad.adapters.openrlhf.experience_maker import LADExperienceMaker
from verl_lad.objective.config import PARTITIONS

from .test_arguments import ANCHORED, GROUP, LAD

PROMPTS, SAMPLES, T = 3, 4, 8
ETA = 0.125


def rollouts(seed=0):
    """One Experience a response, in the order of the prompts, as OpenRLHF's samples generator makes them."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for i in range(PROMPTS * SAMPLES):
        prompt, response = 2 + i % 2, int(torch.randint(1, 5, (), generator=generator))
        mask = torch.zeros(1, T - 1, dtype=torch.long)
        mask[:, prompt - 1 : prompt - 1 + response] = 1
        reward = torch.randint(0, 3, (1,), generator=generator).float() / 2 if i >= SAMPLES else torch.ones(1)
        result.append(
            Experience(
                sequences=torch.randint(3, 9, (1, T), generator=generator),
                attention_mask=torch.ones(1, T, dtype=torch.long),
                action_mask=mask,
                rewards=reward,
                response_length=torch.tensor([response]),
                truncated=torch.tensor([False]),
                total_length=torch.tensor([float(T)]),
                prompts=[f"prompt {i // SAMPLES}"],
                info={"reward": reward.clone()},
            )
        )
    return result


class Models:
    """A group of workers whose forward pass gives log-probs that depend on the tokens alone."""

    def __init__(self, scale):
        self.scale = scale

    def log_probs(self, sequences, mask):
        return -(sequences[:, 1:] * self.scale) * mask.float()

    def async_run_method_batch(self, method_name, sequences, action_mask, attention_mask):
        assert method_name == "forward"
        pairs = zip(sequences, action_mask, strict=True)
        return [[self.log_probs(ids, mask) for ids, mask in pairs]]


ACTOR, REFERENCE = Models(0.3), Models(0.2)


@pytest.fixture(autouse=True)
def results_are_handed_on(monkeypatch):
    monkeypatch.setattr(experience_maker, "ray", SimpleNamespace(get=lambda refs: refs, put=lambda value: value))


def advantages(maker_class, args, samples=None, reference=REFERENCE):
    """(B, T - 1) advantages in the order of the samples, and the action mask."""
    args.rollout.micro_batch_size = 5  # groups are spread over the micro-batches
    samples = samples or rollouts()
    maker = maker_class(
        ACTOR, None, None, reference if args.algo.kl.init_coef > 0 else None,
        FixedKLController(args.algo.kl.init_coef), SimpleNamespace(args=args), SimpleNamespace(pad_token_id=0),
    )  # fmt: skip
    experiences = maker.make_experience_batch(samples)
    assert [i for e in experiences for i in e.index] == list(range(len(samples)))
    return torch.cat([e.advantages for e in experiences]), torch.cat([e.action_mask for e in experiences])


GROUPS = torch.arange(PROMPTS * SAMPLES) // SAMPLES
SCORES = torch.cat([sample.rewards for sample in rollouts()])


@pytest.mark.parametrize("estimator", OUTCOME_ESTIMATORS)
@pytest.mark.parametrize("kl", ["0", "0.1"])
def test_without_partition_and_anchor_it_is_openrlhfs_own(estimator, kl, parse):
    args = parse(*LAD, "--algo.kl.init_coef", kl, "--algo.advantage.estimator", estimator)
    ours, stock = (advantages(maker, args)[0] for maker in (LADExperienceMaker, RemoteExperienceMaker))
    assert stock.abs().max() > 0.1
    assert torch.equal(ours, stock)


def K(samples, reference=REFERENCE):
    """(B,) the whole log-ratio of the sampling policy to the reference."""
    return torch.cat(
        [
            (ACTOR.log_probs(s.sequences, s.action_mask) - reference.log_probs(s.sequences, s.action_mask)).sum(-1)
            for s in samples
        ]
    )


def anchored(scores, partition="none", reference=REFERENCE):
    """(B,) the objective's advantages of s - eta K."""
    config = LADConfig(eta=ETA, anchor="reference", partition=partition)
    return group_advantages(scores - ETA * K(rollouts(), reference), GROUPS, config)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_anchored_advantages_are_the_objectives(partition, parse):
    args = parse(*ANCHORED, "--actor.lad.partition", partition)
    ours, mask = advantages(LADExperienceMaker, args)
    expected = anchored(SCORES, partition)
    torch.testing.assert_close(ours, expected[:, None] * mask, rtol=1e-5, atol=1e-5)
    if partition != "group":
        return
    u = expected.double() / ETA
    for group in range(PROMPTS):
        assert float(u[group == GROUPS].exp().mean()) == pytest.approx(1, abs=1e-5)


def test_openrlhfs_own_kl_in_the_reward_would_give_other_advantages(parse):
    """The negative control: why anchor=reference needs an experience maker."""
    args = parse(*ANCHORED)
    ours, mask = advantages(LADExperienceMaker, args)
    stock, _ = advantages(RemoteExperienceMaker, args)
    assert ((ours - stock) * mask).abs().max() > 0.1
    long = mask.sum(-1) > 1
    first, last = (torch.where(mask.bool(), stock, value) for value in (-torch.inf, torch.inf))
    assert (first.amax(-1) - last.amin(-1))[long].min() > 1e-3, "they differ from token to token"


def test_a_log_ratio_beyond_openrlhfs_limit_of_ten_a_token_counts_whole(parse):
    far = Models(4.0)
    samples = rollouts()
    assert max((K([s], far) / s.action_mask.sum()).item() for s in samples) > 10
    ours, mask = advantages(LADExperienceMaker, parse(*ANCHORED), samples, far)
    expected = anchored(SCORES, reference=far)
    torch.testing.assert_close(ours, expected[:, None] * mask, rtol=1e-4, atol=1e-4)


def test_anchored_rewards_are_penalised_and_clipped_as_openrlhfs(parse):
    samples = rollouts()
    for sample in samples[::3]:
        sample.truncated = torch.tensor([True])
    flags = ("--reward.stop_properly_penalty_coef", "-30", "--reward.clip_range", "-2", "0.8")
    ours, mask = advantages(LADExperienceMaker, parse(*ANCHORED, *flags), samples)
    scores = SCORES.clone()
    scores[::3] = -30
    expected = anchored(scores.clamp(-2, 0.8))
    torch.testing.assert_close(ours, expected[:, None] * mask, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("flags", [ANCHORED, GROUP, (*GROUP, "--actor.lad.partition", "balanced")])
def test_a_response_without_tokens_does_not_count_in_its_group(flags, parse):
    """Whatever its reward is (OpenRLHF's pull request 1239)."""
    results = []
    for reward in (0.0, 8.0):  # OpenRLHF limits a centred reward to 10, so that a larger one spoils its own estimate
        samples = rollouts()
        samples[5].action_mask.zero_()
        samples[5].rewards = torch.tensor([reward])
        ours, _ = advantages(LADExperienceMaker, parse(*flags), samples)
        assert ours.isfinite().all()
        assert not ours[5].any()
        results.append(ours)
    assert results[0].abs().max() > 0.01
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", OUTCOME_ESTIMATORS)
def test_partition_shifts_the_estimators_advantages_to_a_target_of_mass_one(estimator, parse):
    args = parse(*GROUP, "--actor.lad.eta", "0.5", "--algo.advantage.estimator", estimator)
    ours, mask = advantages(LADExperienceMaker, args)
    stock, _ = advantages(RemoteExperienceMaker, args)
    A = torch.where(mask.bool(), stock, -torch.inf).amax(-1).double()
    for group in (group == GROUPS for group in range(PROMPTS)):
        expected = A[group] - 0.5 * (A[group] / 0.5).exp().mean().log()
        torch.testing.assert_close(ours[group], (expected[:, None] * mask[group]).float(), rtol=1e-5, atol=1e-6)


def test_balanced_is_the_objectives_shift_of_the_estimators_advantages(parse):
    args = parse(*GROUP, "--actor.lad.partition", "balanced")
    ours, mask = advantages(LADExperienceMaker, args)
    expected = group_advantages(SCORES, GROUPS, LADConfig(partition="balanced"), norm_by_std=False)  # dr_grpo
    torch.testing.assert_close(ours, expected[:, None] * mask, rtol=1e-5, atol=1e-6)


def test_the_estimators_of_outcomes_give_all_tokens_of_a_response_one_advantage(parse):
    for estimator in OUTCOME_ESTIMATORS:
        args = parse(*LAD, "--algo.kl.init_coef", "0", "--algo.advantage.estimator", estimator)
        stock, mask = advantages(RemoteExperienceMaker, args)
        high, low = (torch.where(mask.bool(), stock, value) for value in (-torch.inf, torch.inf))
        torch.testing.assert_close(high.amax(-1), low.amin(-1), rtol=0, atol=0)


def test_what_is_logged_stays_openrlhfs(parse, caplog):
    caplog.set_level(logging.ERROR)
    infos = []
    for maker_class in (LADExperienceMaker, RemoteExperienceMaker):
        args = parse(*ANCHORED)
        maker = maker_class(
            ACTOR, None, None, REFERENCE, FixedKLController(ETA), SimpleNamespace(args=args),
            SimpleNamespace(pad_token_id=0),
        )  # fmt: skip
        infos.append([experience.info for experience in maker.make_experience_batch(rollouts())])
    for ours, stock in zip(*infos, strict=True):
        assert ours.keys() == stock.keys()
        for key in stock:
            assert torch.equal(ours[key], stock[key]), key
