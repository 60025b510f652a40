"""One rank of verl's own actor worker (FSDP2 over gloo, on CPU), without Ray and without a rollout server.

`python -m adapters.verl.engine_worker DIRECTORY`, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set. DIRECTORY
holds the model, `batch.pt` and `cases.pkl`; rank 0 leaves `results-WORLD_SIZE.pt` there: for each case what `run`
returns.
"""

import gc
import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.padding import left_right_2_no_padding

from .conftest import compose_verl

ROLLOUT_N = 4
FP32 = "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
OVERRIDES = (
    "algorithm.adv_estimator=lad",
    "algorithm.policy_loss=lad",
    "trainer.device=cpu",
    f"actor_rollout_ref.rollout.n={ROLLOUT_N}",
    "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=${actor_rollout_ref.actor.ppo_max_token_len_per_gpu}",
    "actor_rollout_ref.model.use_remove_padding=False",
    "actor_rollout_ref.model.enable_gradient_checkpointing=False",
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    "actor_rollout_ref.actor.strategy=fsdp2",
    "actor_rollout_ref.actor.use_torch_compile=False",
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile=False",
    f"+actor_rollout_ref.actor.fsdp_config.mixed_precision={FP32}",
    "actor_rollout_ref.actor.optim.clip_grad=1e9",
    "actor_rollout_ref.actor.optim.optimizer=SGD",
    "actor_rollout_ref.actor.optim.optimizer_impl=torch.optim",
    "actor_rollout_ref.actor.optim.weight_decay=0",
    "actor_rollout_ref.actor.shuffle=False",
)


@dataclass(frozen=True)
class Case:
    """One training step of a worker.

    Attributes:
        name: unique.
        overrides: of verl's ppo_trainer, beside OVERRIDES.
        fields: what the batch carries beside what it must, or instead of it, by the name that it has in batch.pt.
        nested: as verl's v1 trainer sends a batch; False: padded, as the one before does.
        spoilt: name of a parameter that has a NaN in it.
    """

    name: str
    overrides: tuple[str, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)
    nested: bool = True
    spoilt: str = ""


def rows_of(rank: int, world_size: int, batch_size: int, mini_batches: int) -> list[int]:
    """Of each mini-batch a rank has every world_size-th row, so that its rows are not its neighbours' in any way."""
    size = batch_size // mini_batches
    return [row for start in range(0, batch_size, size) for row in range(start + rank, start + size, world_size)]


def _worker_batch(batch: dict[str, torch.Tensor], rows: list[int], case: Case) -> TensorDict:
    """What verl's trainer would send, by verl's own conversion."""
    chosen = {name: value[rows] for name, value in batch.items()}
    chosen |= {name: chosen[source] for name, source in case.fields.items()}
    names = ["old_log_probs", "advantages", "response_mask", *case.fields]
    data = left_right_2_no_padding(
        TensorDict(
            {
                "input_ids": torch.cat([chosen["prompts"], chosen["responses"]], dim=1),
                **{name: chosen[name] for name in ("prompts", "responses", "attention_mask", "position_ids", *names)},
            },
            batch_size=[len(rows)],
        )
    )
    if not case.nested:
        return data
    exists = chosen["attention_mask"].bool().split([chosen["prompts"].shape[1], chosen["responses"].shape[1]], dim=1)
    for name, mask in [("prompts", exists[0]), *((name, exists[1]) for name in ("responses", *dict.fromkeys(names)))]:
        data[name] = torch.nested.as_nested_tensor(
            [row[there] for row, there in zip(chosen[name], mask, strict=True)], layout=torch.jagged
        )
    if "loss_mask" not in case.fields:
        data["loss_mask"] = data["response_mask"]  # verl/trainer/ppo/v1/agent_loop_tq.py:199
    for name in ("attention_mask", "max_response_len", "max_seq_len", "indices"):
        data.pop(name)
    return data


def run(case: Case, config: DictConfig, directory: Path) -> dict[str, Any]:
    """Builds a worker and has it train on its rows of the batch.

    Args:
        config: the case's actor_rollout_ref.

    Returns:
        gradients: of each update, by parameter, whole; before, after: the parameters; metrics: verl's.
    """
    batch = torch.load(directory / "batch.pt")
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    batch_size = len(batch["responses"])
    mini_batch_size = config.actor.ppo_mini_batch_size * ROLLOUT_N  # verl/trainer/ppo/v1/trainer_base.py:1830
    data = _worker_batch(batch, rows_of(rank, world_size, batch_size, batch_size // mini_batch_size), case)
    tu.assign_non_tensor(
        data,
        calculate_entropy=config.actor.calculate_entropy or config.actor.entropy_coeff != 0,
        distillation_use_topk=False,
        distillation_only=False,
        global_batch_size=mini_batch_size,
        mini_batch_size=mini_batch_size,
        epochs=config.actor.ppo_epochs,
        seed=config.actor.data_loader_seed,
        dataloader_kwargs={"shuffle": config.actor.shuffle},
        temperature=config.rollout.temperature,
        compute_loss=True,
    )
    worker = ActorRolloutRefWorker(config=config, role="actor")
    worker.init_model()
    engine = worker.actor.engine
    step, gradients = engine.optimizer_step, []

    def full(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()

    def recorded_step() -> float:
        gradients.append({n: full(p.grad) for n, p in engine.module.named_parameters() if p.grad is not None})
        return step()

    with torch.no_grad():
        for name, parameter in engine.module.named_parameters():
            if name == case.spoilt:
                parameter.to_local().view(-1)[0] = torch.nan  # in each rank's shard
    before = {n: full(p) for n, p in engine.module.named_parameters()}
    engine.optimizer_step = recorded_step
    output = worker.update_actor(data)
    return {
        "gradients": gradients,
        "before": before,
        "after": {n: full(p) for n, p in engine.module.named_parameters()},
        "metrics": {k: v for k, v in tu.get(output, "metrics").items() if not k.startswith("perf/")},
    }


def write_cases(cases: Sequence[Case], directory: Path) -> dict[str, DictConfig]:
    """Composes each case once and writes them for the ranks; returns the whole configurations by case."""
    common = [*OVERRIDES, f"actor_rollout_ref.model.path={directory / 'model'}"]
    configs = {case.name: compose_verl("ppo_trainer", [*common, *case.overrides]) for case in cases}
    (directory / "cases.pkl").write_bytes(pickle.dumps([(case, configs[case.name]) for case in cases]))
    return configs


def main() -> None:
    directory = Path(sys.argv[1])
    torch.set_num_threads(1)
    cases = pickle.loads((directory / "cases.pkl").read_bytes())
    gc.freeze()  # each init_model has the garbage collector walk all that is loaded: a second a case
    results = {case.name: run(case, config.actor_rollout_ref, directory) for case, config in cases}
    if os.environ["RANK"] == "0":
        torch.save(results, directory / f"results-{os.environ['WORLD_SIZE']}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
