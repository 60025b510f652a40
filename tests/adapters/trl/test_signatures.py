"""What we use of TRL. A release that changes one of these fails here first, by name."""

import dataclasses
import inspect
import re

import trl
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from verl_lad.adapters.trl.config import AGGREGATIONS
from verl_lad.adapters.trl.fused import LOGIT_FACTORS
from verl_lad.adapters.trl.trainer import FORWARD_KEYS, TRIED_TRL, LADTrainer

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


def test_all_that_grpos_loss_reads_is_in_lads_loss_too_or_is_refused():
    """_compute_loss is written out in LADTrainer: what a release adds to TRL's own must be added or refused there."""
    refused = {"use_adaptive_entropy", "importance_sampling_level", "delta"}
    read_by_refused = {
        "_last_world_entropy", "entropy_target", "_entropy_window_stats", "entropy_coef_delta", "entropy_coef_min",
        "entropy_coef_max", "epsilon_low", "epsilon_high", "get_gamma_weights", "sapo_temperature_pos",
        "sapo_temperature_neg", "vespo_k_pos", "vespo_k_neg", "vespo_lambda_pos", "vespo_lambda_neg",
    }  # fmt: skip
    bookkeeping = {"_metrics", "accelerator", "model", "_get_per_token_logps_and_entropies"}
    kept = {
        "aux_loss_enabled", "router_aux_loss_coef", "top_entropy_quantile", "get_high_entropy_mask", "beta",
        "off_policy_mask_threshold", "get_off_policy_mask", "use_bias_correction_kl", "loss_type", "entropy_coef",
        "use_vllm", "vllm_importance_sampling_correction", "current_gradient_accumulation_steps",
        "max_completion_length", "steps_per_generation", "_entropy_bonus_enabled",
    }  # fmt: skip
    read = set(re.findall(r"self\.(?:args\.)?(\w+)", LOSS))
    assert read == refused | read_by_refused | bookkeeping | kept
    keys = set(re.findall(r'inputs(?:\.get\(|\[)"(\w+)"', LOSS))
    assert keys - set(FORWARD_KEYS) == {
        "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask", "advantages",
        "old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio",
        "num_items_in_batch",
    }  # fmt: skip
    for loss_type in {name for allowed in AGGREGATIONS.values() for name in allowed}:
        assert f'"{loss_type}"' in LOSS
    assert "self._entropy_bonus_enabled = self.entropy_coef != 0.0 or self.use_adaptive_entropy" in SOURCE["__init__"]


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
        "entropy_coef": 0.0, "use_adaptive_entropy": False, "num_generations": 8, "num_generations_eval": None,
        "use_bias_correction_kl": True, "epsilon": 0.2,
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
