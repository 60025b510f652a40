"""The GPU recipes against real verl: what they compose, for every ALGO."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config

RECIPES = Path(__file__).parents[2] / "recipes"
EIGHT_GPU_RECIPES = ["run_qwen_math", "run_nemotron_1.5b_math", "run_deepscaler_1.5b_math", "run_r1_distill_7b_code"]
GPU_RECIPES = [*EIGHT_GPU_RECIPES, "run_qwen2.5_0.5b_gsm8k"]
LOSS_MODE = {
    "lad": "lad",
    "lad_anchored": "lad",
    "grpo": "vanilla",
    "grpo_kl": "vanilla",
    "kl_cov": "kl_cov",
    "clip_cov": "clip_cov",
    "entropy": "vanilla",
    "gspo": "gspo",
    "dro": "dro",
}
ALGORITHM_KEYS = (
    "algorithm.",
    "actor_rollout_ref.actor.policy_loss.",
    "actor_rollout_ref.actor.loss_agg_mode",
    "actor_rollout_ref.actor.ppo_epochs",
    "actor_rollout_ref.actor.entropy_coeff",
    "actor_rollout_ref.actor.clip_ratio_",
)


@pytest.fixture(scope="module")
def arguments_of(tmp_path_factory):
    """arguments_of(recipe, ALGO="lad", ...): the arguments that a recipe gives to `python -m verl.trainer.main_ppo`."""
    directory = tmp_path_factory.mktemp("recipes")
    recorder = directory / "python"
    recorder.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"'
    )
    recorder.chmod(0o755)

    def run(recipe: str, *overrides: str, **variables: str) -> list[str]:
        done = subprocess.run(
            ["bash", str(RECIPES / f"{recipe}.sh"), *overrides],
            env={**os.environ, "PYTHON": str(recorder), **variables},
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        module, *arguments = json.loads(done.stdout.splitlines()[-1])[1:]
        assert module == "verl.trainer.main_ppo"
        return arguments

    return run


@pytest.fixture(scope="module")
def composed(arguments_of):
    """composed(recipe, ALGO="lad", ...): what verl composes of a recipe; the same object for the same arguments."""

    @functools.cache
    def run(recipe: str, *overrides: str, **variables: str):
        arguments = arguments_of(recipe, *overrides, **variables)
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose("ppo_trainer", overrides=[one for one in arguments if not one.startswith("hydra.")])

    GlobalHydra.instance().clear()
    return run


def flat(node, prefix=""):
    if isinstance(node, dict) and node:
        return {key: value for name, child in node.items() for key, value in flat(child, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): node}


@pytest.mark.parametrize("algo", LOSS_MODE)
@pytest.mark.parametrize("recipe", GPU_RECIPES)
def test_a_recipe_composes_and_passes_verls_own_validation_and_dataclasses(recipe, algo, composed):
    config = composed(recipe, ALGO=algo, RUN_DIR="run")
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert actor.policy_loss.loss_mode == LOSS_MODE[algo]
    assert get_policy_loss_fn(actor.policy_loss.loss_mode) is not None
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    omega_conf_to_dataclass(config.algorithm)
    assert not need_critic(config)
    assert need_reference_policy(config) == (algo in ("lad_anchored", "grpo_kl"))


@pytest.mark.parametrize("recipe", GPU_RECIPES)
def test_no_recipe_runs_code_that_comes_with_a_model_or_a_data_set(recipe, composed):
    config = flat(OmegaConf.to_container(composed(recipe), resolve=True))
    asked = {key: value for key, value in config.items() if key.endswith("trust_remote_code")}
    assert {"data.trust_remote_code", "actor_rollout_ref.model.trust_remote_code"} <= set(asked)
    assert not any(asked.values()), asked


@pytest.mark.parametrize("recipe", GPU_RECIPES)
def test_algorithms_differ_in_the_algorithms_keys_alone(recipe, composed):
    configs = {
        algo: flat(OmegaConf.to_container(composed(recipe, ALGO=algo, RUN_DIR="run"), resolve=True))
        for algo in LOSS_MODE
    }
    reference = configs.pop("grpo")
    for algo, config in configs.items():
        different = {key for key in config.keys() | reference.keys() if config.get(key) != reference.get(key)}
        others = {key for key in different if not key.startswith(ALGORITHM_KEYS)}
        assert different - others, algo
        # names, the time at which the recipe was started, and keys of the actor's, which parts not in use inherit
        inherited = {"experiment_name", "VERL_FILE_LOGGER_PATH", "loss_agg_mode", "ppo_epochs"}
        assert {key.split(".")[-1] for key in others} <= inherited, algo


def test_the_papers_setting_is_the_default(composed):
    config = composed("run_qwen_math")
    assert config.actor_rollout_ref.model.path == "Qwen/Qwen2.5-7B"
    assert (config.algorithm.lad.eta, config.algorithm.lad.divergence, config.algorithm.lad.anchor) == (
        0.25,
        "js",
        "old",
    )
    assert [Path(file).stem for file in config.data.val_files] == [
        "math500", "aime24", "aime25", "amc", "olympiadbench", "minerva"
    ]  # fmt: skip


@pytest.mark.parametrize("recipe", EIGHT_GPU_RECIPES)
def test_what_the_paper_does_not_say_is_flowrls(recipe, composed):
    config, code = composed(recipe), recipe == "run_r1_distill_7b_code"
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (actor.optim.lr, actor.optim.lr_warmup_steps, actor.optim.weight_decay) == (1e-6, 10, 0.1)
    assert (config.data.train_batch_size, actor.ppo_mini_batch_size, rollout.n) == (64 if code else 512, 32, 8)
    assert (config.data.max_prompt_length, config.data.max_response_length) == (2048, 8192)
    assert rollout.temperature == (0.6 if code else 1.0)
    assert (actor.entropy_coeff, actor.use_kl_loss) == (0, False)


def test_the_anchored_variant_takes_its_own_temperature_and_switches_in_reward_kl_on(composed):
    config = composed("run_qwen_math", ALGO="lad_anchored")
    assert config.algorithm.lad.eta == config.algorithm.kl_ctrl.kl_coef == 0.125
    assert config.algorithm.use_kl_in_reward
    assert (config.algorithm.lad.divergence, config.algorithm.lad.ratio) == ("js", "sequence")
    assert config.actor_rollout_ref.actor.ppo_epochs == 4
    config = composed("run_qwen_math", ALGO="lad_anchored", ETA="0.5", DIVERGENCE="kl")
    assert (config.algorithm.kl_ctrl.kl_coef, config.algorithm.lad.divergence) == (0.5, "kl")
    config = composed("run_qwen_math", ANCHOR="reference", ETA="0.5")
    assert config.algorithm.lad.eta == config.algorithm.kl_ctrl.kl_coef == 0.5


@pytest.mark.parametrize(
    ("ratio", "agg_mode"),
    [("token", "token-mean"), ("sequence", "seq-mean-token-sum"), ("geometric", "seq-mean-token-mean")],
)
def test_a_ratio_brings_its_aggregation(ratio, agg_mode, composed):
    config = composed("run_qwen_math", RATIO=ratio)
    assert config.actor_rollout_ref.actor.loss_agg_mode == agg_mode


@pytest.mark.parametrize("recipe", GPU_RECIPES)
def test_the_command_line_has_the_last_word(recipe, composed):
    assert composed(recipe, "trainer.total_training_steps=7", STEPS="9").trainer.total_training_steps == 7


@pytest.mark.parametrize("variable", ["ALGO", "RATIO"])
def test_an_unknown_choice_is_refused_with_what_is_allowed(variable, tmp_path):
    done = subprocess.run(
        ["bash", str(RECIPES / "run_qwen_math.sh")],
        env={**os.environ, variable: "nonsense", "PYTHON": "false"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert re.search(rf"^{variable}=nonsense is not allowed: .* or \w+$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("recipe", GPU_RECIPES)
def test_a_recipe_composes_with_what_a_cpu_needs(recipe, composed):
    script = f'N_GPUS=2; source "{RECIPES / "cpu.sh"}"; printf "%s\\n" "${{CPU[@]}}"'
    cpu = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout
    config = composed(recipe, *cpu.splitlines())
    assert config.trainer.device == "cpu"
    assert config.actor_rollout_ref.model.override_config.attn_implementation == "sdpa"
    assert not config.actor_rollout_ref.model.use_remove_padding


def test_gsm8k_is_rewarded_by_verl_itself_on_one_gpu(composed):
    config = composed("run_qwen2.5_0.5b_gsm8k")
    assert config.reward.custom_reward_function.path is None
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (1, 1)
    assert not config.actor_rollout_ref.actor.use_kl_loss


@pytest.mark.parametrize("recipe", GPU_RECIPES)
def test_paths_do_not_depend_on_where_a_ray_worker_stands(recipe, composed):
    config = composed(recipe)
    paths = [
        *config.data.train_files,
        *config.data.val_files,
        config.trainer.default_local_dir,
        config.trainer.validation_data_dir,
        config.ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH,
    ]
    assert all(Path(path).is_absolute() for path in paths)


@pytest.mark.parametrize("recipe", GPU_RECIPES)
def test_every_value_names_its_source(recipe):
    """Everything of the block that shapes the result, and not where or how fast it is computed."""
    text = (RECIPES / f"{recipe}.sh").read_text().partition("\nSTEPS=")[0] + (RECIPES / "algorithms.sh").read_text()
    free = {"SEED", "DATA_DIR", "RUN_DIR", "NNODES", "N_GPUS", "OFFLOAD", "ALGO", "HERE"}
    for line in text.splitlines():
        name = re.match(r"(?:export )?([A-Z_]+)=\$", line)
        if name and name[1] not in free:
            assert re.search(r"\[(paper|FlowRL|verl|ours|the model's card)|arXiv|the same", line), line


SMALL_MODELS = {
    "run_nemotron_1.5b_math": "nvidia/OpenMath-Nemotron-1.5B",
    "run_deepscaler_1.5b_math": "Vinnnf/Thinkless-1.5B-RL-DeepScaleR",
}


@pytest.mark.parametrize("algo", LOSS_MODE)
@pytest.mark.parametrize("recipe", SMALL_MODELS)
def test_a_small_models_recipe_is_the_qwen_recipe_with_its_own_defaults(recipe, algo, arguments_of):
    """The command lines are compared: what verl composes depends on nothing else."""

    def settings(*call, **variables):
        arguments = [one.partition("=") for one in arguments_of(*call, ALGO=algo, SEED="3", **variables)]
        named = {key.lstrip("+"): value for key, _, value in arguments}
        assert len(named) == len(arguments)
        return {key: re.sub(r"metrics-\d+-\d+", "metrics-TIME", value) for key, value in named.items()}

    qwen, small = settings("run_qwen_math"), settings(recipe)
    different = {key: value for key, value in small.items() if qwen.get(key) != value}
    assert qwen.keys() == small.keys()
    directory = {key: value for key, value in different.items() if recipe in value}
    assert all(value.replace(recipe, "run_qwen_math") == qwen[key] for key, value in directory.items())
    data = {key: value for key, value in different.items() if key in ("data.train_files", "data.val_files")}
    assert all(value.replace("data/math_boxed/", "data/math/") == qwen[key] for key, value in data.items())
    assert len(data) == 2
    assert {key: value for key, value in different.items() if key not in directory | data} == {
        "actor_rollout_ref.model.path": SMALL_MODELS[recipe],
        "actor_rollout_ref.rollout.tensor_model_parallel_size": "1",
        "actor_rollout_ref.rollout.val_kwargs.temperature": "0.6",
        "actor_rollout_ref.rollout.val_kwargs.top_p": "0.95",
    }


@pytest.mark.parametrize("recipe", SMALL_MODELS)
def test_a_small_models_recipe_takes_every_variable_of_the_qwen_recipe(recipe, arguments_of):
    own = {"MODEL_PATH": "/model", "VAL_TOP_P": "0.5", "GEN_TP": "4", "MINI_BATCH_SIZE": "2", "LR": "3e-6"}
    arguments = arguments_of(recipe, "trainer.total_training_steps=7", RUN_DIR="/run", **own)
    assert arguments[-1] == "trainer.total_training_steps=7"
    assert {
        "actor_rollout_ref.model.path=/model",
        "actor_rollout_ref.rollout.val_kwargs.top_p=0.5",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=4",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.actor.optim.lr=3e-6",
        "trainer.default_local_dir=/run/checkpoints",
    } <= set(arguments)


LONG = [(recipe, algo) for recipe in GPU_RECIPES for algo in LOSS_MODE if (recipe, algo) != ("run_qwen_math", "lad")]


@pytest.mark.parametrize(
    ("recipe", "algo"),
    [("run_qwen_math", "lad"), *(pytest.param(*one, marks=[pytest.mark.e2e, pytest.mark.long]) for one in LONG)],
)
def test_hydra_itself_takes_a_recipes_command_line(recipe, algo, tmp_path):
    done = subprocess.run(
        ["bash", str(RECIPES / f"{recipe}.sh"), "--cfg", "job", "--resolve"],
        env={**os.environ, "PYTHON": sys.executable, "ALGO": algo},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"loss_mode: {LOSS_MODE[algo]}" in done.stdout
