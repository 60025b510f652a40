"""What we use of TRL. A release that changes one of these fails here first, by name."""

import dataclasses
import inspect
import re

import trl
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from verl_lad.adapters.trl.fused import LOGIT_FACTORS
from verl_lad.adapters.trl.trainer import AGGREGATIONS, FORWARD_KEYS, TRIED_TRL, LADTrainer

SOURCE = {name: inspect.getsource(function) for name, function in inspect.getmembers(GRPOTrainer, inspect.isfunction)}
LOSS, GENERATE = SOURCE["_compute_loss"], SOURCE["_generate_and_score_completions"]


def names(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_trl_is_the_release_that_this_was_tried_with():
    assert trl.__version__ == TRIED_TRL


def test_what_ours_overrides():
    overridden = {name for name in vars(LADTrainer) if callable(vars(LADTrainer)[name])} & set(dir(GRPOTrainer))
    assert overridden - {"__init__"} == {
        "_calculate_rewards",
        "_generate_and_score_completions",
        "_compute_loss",
        "_get_per_token_logps_and_entropies",
        "get_off_policy_mask",
    }
    assert names(GRPOTrainer.__init__)[:4] == ["self", "model", "reward_funcs", "args"]
    assert names(GRPOTrainer._calculate_rewards) == ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert names(GRPOTrainer._generate_and_score_completions) == ["self", "inputs"]
    assert names(GRPOTrainer._compute_loss) == ["self", "model", "inputs"]
    assert names(GRPOTrainer.get_off_policy_mask) == [
        "advantages",
        "per_token_logps",
        "sampling_per_token_logps",
        "mask",
        "off_policy_threshold",
    ]
    assert not {name for name in dir(GRPOTrainer) if name.startswith(("_lad", "lad"))}


def test_the_forward_pass_takes_what_we_pass():
    taken = names(GRPOTrainer._get_per_token_logps_and_entropies)
    assert taken[:6] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"]
    assert set(taken[6:]) == {"compute_entropy", "compute_aux_loss", *FORWARD_KEYS}
    call = LOSS[LOSS.index("self._get_per_token_logps_and_entropies(") : LOSS.index("entropy_mask")]
    passed = re.findall(r'(\w+)=inputs\.get\("(\w+)"\)', call)
    assert {name for name, _ in passed} == {key for _, key in passed} == set(FORWARD_KEYS)
    assert names(disable_gradient_checkpointing) == ["model", "gradient_checkpointing_kwargs"]


def test_the_loss_reads_from_its_inputs_what_we_put_there():
    assert LOSS.count("self._get_per_token_logps_and_entropies(") == 1
    for read in (
        'inputs["advantages"]', 'inputs.get("old_per_token_logps")', 'inputs["ref_per_token_logps"]',
        'inputs["importance_sampling_ratio"]', 'inputs.get("sampling_per_token_logps", old_per_token_logps)',
        'inputs["completion_mask"]', 'inputs["tool_mask"]',
    ):  # fmt: skip
        assert read in LOSS, read
        assert LOSS.index(read) > LOSS.index("_get_per_token_logps_and_entropies(") or "mask" in read
    assert "-torch.min(per_token_loss1, per_token_loss2)" in LOSS
    assert "torch.clamp(coef_1, 1 - self.epsilon_low, 1 + self.epsilon_high)" in LOSS
    assert "per_token_kl = per_token_kl * coef_1" in LOSS
    assert "self.get_off_policy_mask(" in LOSS
    for loss_type in {name for allowed in AGGREGATIONS.values() for name in allowed}:
        assert f'"{loss_type}"' in LOSS


def test_a_generated_batch_holds_what_we_read():
    for key in (
        "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "old_per_token_logps",
        "ref_per_token_logps", "tool_mask",
    ):  # fmt: skip
        assert f'"{key}"' in GENERATE, key
    assert "if self.beta != 0.0:" in GENERATE, "how reference log-probabilities are asked for"
    assert 'self._logs["advantages"].extend(all_process_advantages.tolist())' in GENERATE
    assert "rewards_per_func = self._calculate_rewards(" in GENERATE
    assert "rewards_per_func = gather(rewards_per_func)" in SOURCE["_calculate_rewards"]
    assert "self.accelerator.process_index * len(prompts)" in GENERATE


def test_beta_is_what_loads_a_reference_model():
    init = SOURCE["__init__"]
    assert "self.beta = args.beta" in init
    assert "elif is_peft_model(model) and args.beta != 0.0:" in init
    assert "self.ref_model = create_model_from_path(" in init


def test_the_configs_keys():
    stock = {one.name: one.default for one in dataclasses.fields(GRPOConfig)}
    assert {
        "scale_rewards": "group", "loss_type": "dapo", "importance_sampling_level": "token", "delta": None, "beta": 0.0,
        "use_liger_kernel": False, "multi_objective_aggregation": "sum_then_normalize", "sync_ref_model": False,
        "entropy_coef": 0.0, "use_adaptive_entropy": False, "use_bias_correction_kl": True, "epsilon": 0.2,
        "epsilon_high": None, "off_policy_mask_threshold": None,
    }.items() <= stock.items()  # fmt: skip
    assert not {name for name in stock if name.startswith("lad")}


def test_what_the_fused_loss_stands_beside():
    from trl.trainer import utils

    assert "final_logit_softcapping" in inspect.getsource(utils.add_fused_lm_head)
    scaling = set(re.findall(r'text_config, "(\w+)", None\)', inspect.getsource(utils.add_fused_lm_head)))
    assert scaling - {"final_logit_softcapping"} == set(LOGIT_FACTORS)
    assert names(utils.maybe_gather_lm_head_ctx) == ["params"]
    normalisers = re.findall(r"normalizer = (.*)", LOSS)
    assert set(normalisers) == {
        'self.current_gradient_accumulation_steps if mode == "train" else 1.0  # no accum in eval',
        'inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes',
        "normalizer * self.current_gradient_accumulation_steps / self.args.steps_per_generation",
        'self.current_gradient_accumulation_steps if mode == "train" else 1.0',
    }
