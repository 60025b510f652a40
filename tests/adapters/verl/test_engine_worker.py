"""verl's own actor worker with our loss: the gradient is that of the global batch, however the batch is divided.

Every gradient of every parameter is compared with one that owes verl's engine nothing: the model in float64, a response
at a time and without padding, the reference loss by autograd, verl's agg_loss over the whole mini-batch.
"""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from peft import LoraConfig, get_peft_model
from transformers import Qwen2ForCausalLM
from verl.trainer.ppo.core_algos import agg_loss, kl_penalty
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask

from verl_lad import lad_loss_reference
from verl_lad.adapters.verl.checks import MATCHING_AGG_MODE
from verl_lad.adapters.verl.policy_loss import METRIC_NAMES
from verl_lad.adapters.verl.presets import read_settings

from .engine_worker import ROLLOUT_N, Case, write_cases

REPOSITORY = Path(__file__).parents[3]
sys.path.insert(0, str(REPOSITORY / "recipes" / "study"))

from policy import make_model, make_tokenizer  # noqa: E402

pytestmark = pytest.mark.timeout(300, func_only=True)  # a test's own work; TIME_LIMIT is that of the fixture `results`

PROMPTS = [3, 3, 3, 3, 5, 5, 5, 5]
RESPONSES = [6, 1, 4, 3, 2, 6, 5, 3]
B, P, T = len(PROMPTS), max(PROMPTS), max(RESPONSES)
WORLD_SIZES = (1, 2)
TIME_LIMIT = 1800
"""Seconds for the ranks of one run, which do the work of all cases: a net, not an expectation."""
TOLERANCE = 1e-5
"""Of the largest element of a parameter's gradient: sums in float32 and in another order, against float64."""

ACTOR = "actor_rollout_ref.actor"
ONE_UPDATE = (f"{ACTOR}.ppo_mini_batch_size={B // ROLLOUT_N}", "algorithm.lad.eta=0.5")
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
MATCHING = {"token": "token-mean", **MATCHING_AGG_MODE}
AGG_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")


def loss_of(ratio: str, loss_agg_mode: str) -> tuple[str, ...]:
    return (
        *ONE_UPDATE,
        f"algorithm.lad.ratio={ratio}",
        f"{ACTOR}.loss_agg_mode={loss_agg_mode}",
        # without it the split counts: the last test
        f"{ACTOR}.loss_scale_factor={T}",
    )


def micro_batch(size: int) -> tuple[str, ...]:
    return (f"{ACTOR}.ppo_micro_batch_size_per_gpu={size}",)


DYNAMIC = (
    f"{ACTOR}.use_dynamic_bsz=True",
    f"{ACTOR}.ppo_max_token_len_per_gpu=12",
    "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True",
)
PACKED = ("actor_rollout_ref.model.use_remove_padding=True",)
TWO_EPOCHS = (f"{ACTOR}.ppo_mini_batch_size=1", f"{ACTOR}.ppo_epochs=2", f"{ACTOR}.optim.lr=0.02")

CASES = [
    *(Case(f"{ratio}, {mode}", (*loss_of(ratio, mode), *micro_batch(2))) for ratio in MATCHING for mode in AGG_MODES),
    *(
        Case(f"{ratio}, {name}", (*loss_of(ratio, mode), *overrides), nested=nested)
        for ratio, mode in MATCHING.items()
        for name, overrides, nested in (
            ("micro-batches of 1", micro_batch(1), True),
            ("micro-batches of 4", micro_batch(4), True),
            ("dynamic batch size", DYNAMIC, True),
            ("packed", (*micro_batch(2), *PACKED), True),
            ("packed, dynamic batch size", (*DYNAMIC, *PACKED), True),
            ("padded", micro_batch(2), False),
        )
    ),
    *(
        Case(
            f"{ratio}, two epochs of two mini-batches",
            (*loss_of(ratio, mode), *micro_batch(1), *TWO_EPOCHS),
        )
        for ratio, mode in MATCHING.items()
    ),
    Case(
        "token, rollout correction by token",
        (*loss_of("token", "token-mean"), *micro_batch(1)),
        {"rollout_is_weights": "is_token"},
    ),
    Case(
        "sequence, rollout correction by sequence",
        (*loss_of("sequence", MATCHING["sequence"]), *micro_batch(1)),
        {"rollout_is_weights": "is_sequence"},
    ),
    *(
        Case(
            f"{ratio}, rejection",
            (*loss_of(ratio, mode), *micro_batch(1)),
            {"response_mask": "accepted", "loss_mask": "response_mask"},
        )
        for ratio, mode in MATCHING.items()
    ),
    Case(
        "token, KL loss",
        (*loss_of("token", "token-mean"), *micro_batch(1), f"{ACTOR}.use_kl_loss=True", f"{ACTOR}.kl_loss_coef=0.3"),
        {"ref_log_prob": "ref_log_prob"},
    ),
    Case(
        "sequence, temperature",
        (*loss_of("sequence", MATCHING["sequence"]), *micro_batch(1), "actor_rollout_ref.rollout.temperature=0.7"),
    ),
    Case(
        "token, LoRA, two epochs of two mini-batches",
        (
            *loss_of("token", "token-mean"),
            *micro_batch(1),
            *TWO_EPOCHS,
            f"actor_rollout_ref.model.lora_rank={LORA['r']}",
            f"actor_rollout_ref.model.lora_alpha={LORA['lora_alpha']}",
            f"actor_rollout_ref.model.target_modules=[{','.join(LORA['target_modules'])}]",
        ),
    ),
]

UNSCALED = [
    Case(
        f"no scale factor, micro-batches of {size}, {'nested' if nested else 'padded'}",
        (*loss_of("token", "seq-mean-token-sum-norm"), *micro_batch(size), f"{ACTOR}.loss_scale_factor=null"),
        nested=nested,
    )
    for nested in (True, False)
    for size in (1, 4)
]

SPOILT = Case(
    "a NaN in the model",
    (*loss_of("token", "token-mean"), *micro_batch(1), f"{ACTOR}.ppo_mini_batch_size=1"),
    spoilt="model.norm.weight",
)


def log_probs(model: Qwen2ForCausalLM, batch: dict[str, torch.Tensor], temperature: float) -> torch.Tensor:
    """(B, T), a response at a time; 0 where there is no token."""
    rows = []
    for row in range(B):
        prompt = batch["prompts"][row, P - PROMPTS[row] :]
        response = batch["responses"][row, : RESPONSES[row]]
        logits = model(input_ids=torch.cat([prompt, response])[None]).logits[0, PROMPTS[row] - 1 : -1]
        rows.append((logits / temperature).log_softmax(-1).gather(-1, response[:, None]).squeeze(-1))
    return torch.stack([torch.nn.functional.pad(row, (0, T - len(row))) for row in rows])


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """With a model, and a batch whose old policy, reference policy and rollout server differ from it."""
    directory = tmp_path_factory.mktemp("engine")
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    model.save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")

    prompt_mask, response_mask = torch.zeros(B, P, dtype=torch.long), torch.zeros(B, T, dtype=torch.long)
    for row in range(B):
        prompt_mask[row, P - PROMPTS[row] :] = 1
        response_mask[row, : RESPONSES[row]] = 1
    attention_mask = torch.cat([prompt_mask, response_mask], dim=1)
    response_mask[0, 2] = 0  # a tool's output within a response
    response_mask[3] = 0  # a response that does not count
    batch = {
        "prompts": torch.randint(len(tokenizer), (B, P)) * prompt_mask,
        "responses": torch.randint(len(tokenizer), (B, T)) * attention_mask[:, P:],
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0),
        "response_mask": response_mask,
        "advantages": torch.randn(B, 1) * response_mask,
    }
    with torch.no_grad():
        log_prob = log_probs(model, batch, temperature=1.0)

    def another() -> torch.Tensor:
        return (log_prob + 0.4 * torch.randn(B, T)) * attention_mask[:, P:]

    batch |= {"old_log_probs": another(), "ref_log_prob": another()}
    rollout_log_prob = another()
    for level in ("token", "sequence"):
        weights, _, _ = compute_rollout_correction_and_rejection_mask(
            batch["old_log_probs"], rollout_log_prob, response_mask, rollout_is=level
        )
        batch[f"is_{level}"] = weights.batch["rollout_is_weights"]
    _, batch["accepted"], _ = compute_rollout_correction_and_rejection_mask(
        batch["old_log_probs"], rollout_log_prob, response_mask, rollout_rs="seq_sum_k1", rollout_rs_threshold="0.5_1.5"
    )
    accepted = batch["accepted"].sum(-1) > 0
    assert 0 < accepted.sum() < (response_mask.sum(-1) > 0).sum()
    torch.save(batch, directory / "batch.pt")
    return directory


@pytest.fixture(scope="module")
def configs(directory) -> dict[str, DictConfig]:
    """By case, and written for the ranks."""
    return write_cases([*CASES, *UNSCALED, SPOILT], directory)


@pytest.fixture(scope="module")
def results(directory, configs) -> dict[int, dict]:
    """By number of ranks, then by case."""
    found = {}
    for world_size in WORLD_SIZES:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {
            **os.environ,
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]),
            "VERL_PLATFORM": "cpu",
            "VERL_ENGINE_DEVICE": "cuda",
            "VERL_USE_EXTERNAL_MODULES": "verl_lad.cpu.plugin",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONFAULTHANDLER": "1",  # once, in CI, a rank ended with SIGSEGV, and nothing said where
        }
        ranks, logs = [], [directory / f"rank{rank}-of-{world_size}.log" for rank in range(world_size)]
        for rank, log in enumerate(logs):
            with log.open("w") as stream:
                ranks.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "adapters.verl.engine_worker", str(directory)],
                        env={**environment, "RANK": str(rank)},
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                    )
                )
        try:
            for rank, log in zip(ranks, logs, strict=True):
                assert rank.wait(TIME_LIMIT) == 0, log.read_text()[-8000:]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        found[world_size] = torch.load(directory / f"results-{world_size}.pt", weights_only=False)
    return found


def updates(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], case: Case, config: DictConfig
) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """The gradient of each update and the parameters after the last, by the formulas."""
    actor, settings = config.actor_rollout_ref.actor, read_settings(config.algorithm.lad)
    batch = batch | {name: batch[source] for name, source in case.fields.items()}
    size = actor.ppo_mini_batch_size * ROLLOUT_N
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = []
    for _ in range(actor.ppo_epochs):
        for start in range(0, B, size):
            rows = slice(start, start + size)
            mask = batch["response_mask"][rows]
            log_prob = log_probs(model, batch, config.actor_rollout_ref.rollout.temperature)[rows]

            def aggregate(matrix, mask=mask, rows=rows):
                return agg_loss(
                    matrix,
                    mask,
                    actor.loss_agg_mode,
                    batch_num_tokens=batch.get("loss_mask", batch["response_mask"])[rows].sum(),
                    global_batch_size=size,
                    loss_scale_factor=actor.loss_scale_factor,
                )

            matrix = lad_loss_reference(
                log_prob, batch["old_log_probs"][rows].double(), batch["advantages"][rows].double(), mask, settings
            )
            loss = aggregate(
                matrix * batch["rollout_is_weights"][rows] if "rollout_is_weights" in case.fields else matrix
            )
            if actor.use_kl_loss:
                loss = loss + actor.kl_loss_coef * aggregate(
                    kl_penalty(log_prob, batch["ref_log_prob"][rows].double(), actor.kl_loss_type)
                )
            gradient = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            gradients.append(dict(zip(parameters, gradient, strict=True)))
            with torch.no_grad():
                for parameter, value in zip(parameters.values(), gradient, strict=True):
                    parameter -= actor.optim.lr * value
    return gradients, {name: p.detach() for name, p in model.named_parameters()}


def assert_close(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        error = (ours[name].double() - value).abs().max().item()
        assert error <= TOLERANCE * value.abs().max().item() + 1e-9, (name, error, value.abs().max().item())


@pytest.fixture(scope="module")
def batch(directory) -> dict[str, torch.Tensor]:
    return torch.load(directory / "batch.pt")


@pytest.mark.parametrize("world_size", WORLD_SIZES, ids=["1 rank", "2 ranks"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_gradient_is_that_of_the_global_batch(case, world_size, directory, batch, configs, results):
    result = results[world_size][case.name]
    model = Qwen2ForCausalLM.from_pretrained(directory / "model", dtype=torch.float64)
    if "LoRA" in case.name:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))
        model.load_state_dict({n: p.double() for n, p in result["before"].items()}, strict=False)
    gradients, after = updates(model, batch, case, configs[case.name])
    assert len(result["gradients"]) == len(gradients)
    for ours, expected in zip(result["gradients"], gradients, strict=True):
        assert_close(ours, expected)
    assert any(value.abs().max() > 0 for value in gradients[-1].values())
    assert_close(result["after"], after)


def test_the_metrics_are_those_of_our_loss(results):
    for by_case in results.values():
        for name, result in by_case.items():
            missing = set(METRIC_NAMES.values()) - set(result["metrics"])
            assert not missing, (name, missing)


def test_a_nan_log_prob_is_seen_in_the_metrics_and_changes_no_parameter(results):
    # verl's own: it skips an update whose gradient is not finite, and its worker prints "WARN: grad_norm is not finite"
    for world_size, by_case in results.items():
        result = by_case[SPOILT.name]
        assert len(result["gradients"]) == 2
        for gradient in result["gradients"]:
            assert any(value.isnan().any() for value in gradient.values())
        for name, value in result["before"].items():
            torch.testing.assert_close(result["after"][name], value, rtol=0, atol=0, equal_nan=True)
        assert all(math.isnan(value) for value in result["metrics"]["grad_norm"])
        for name in ("ppo_kl", "lad/divergence"):
            assert all(math.isnan(value) for value in result["metrics"][f"actor/{name}"]), (world_size, name)


def test_without_loss_scale_factor_verls_v1_trainer_has_gradients_that_depend_on_the_split(results):
    # observed in verl 0.9.1, under every policy loss: agg_loss takes the width of a micro-batch, and in v1 that is its
    # longest response. verl_lad/adapters/verl/checks.py warns of it.
    for by_case in results.values():
        nested, padded = (
            [by_case[case.name]["gradients"][0]["model.norm.weight"] for case in UNSCALED if case.nested == nested]
            for nested in (True, False)
        )
        torch.testing.assert_close(padded[0], padded[1], rtol=1e-4, atol=1e-8)
        assert (nested[0] - nested[1]).abs().max() > 0.1 * nested[0].abs().max()
