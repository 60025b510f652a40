"""The loss with all its metrics, forward and backward, against verl's own losses on the same tensors.

`python tests/benchmarks/bench_loss.py [--device cuda]`. Each loss is called as verl's actor calls it, metrics and their
transfers included. Responses have a quarter to all of the T slots, advantages are one a response. Time is CPU time of
one thread, or on a GPU wall-clock time up to its end, interleaved; memory is the allocator's peak beyond the inputs.
"none": a loss that computes nothing, which aggregates the log-probs, a (B, T) matrix, and fetches one metric: what
verl's contract costs any loss that does so.
"""

import argparse
import time
from collections.abc import Callable

from measure import cuda_clock, cuda_peak_bytes, interleaved_seconds, markdown_table, peak_bytes, ratio_text  # isort: skip
from measure import ratios, spread, write_results  # isort: skip

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

from verl_lad import LADConfig
from verl_lad.adapters.verl.settings import LADPolicyLossConfig

OURS = "lad"
THEIRS = ("vanilla", "gspo", "sapo")
NONE = "none"
SHAPES = [(8, 512), (8, 4096), (8, 16384), (64, 512), (64, 4096), (64, 16384)]
DTYPES = (torch.float32, torch.bfloat16)


def actor_config(loss_mode: str) -> FSDPActorConfig:
    return FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=2,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=LADPolicyLossConfig(loss_mode=loss_mode, lad=LADConfig()),
    )


def micro_batch(rows: int, length: int, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Log-probs after a few updates: |l| about 0.05 a token."""
    generator = torch.Generator().manual_seed(0)
    old = -3 * torch.rand(rows, length, generator=generator)
    log_prob = old + 0.05 * torch.randn(rows, length, generator=generator)
    lengths = torch.randint(length // 4, length + 1, (rows, 1), generator=generator)
    mask = torch.arange(length) < lengths
    advantages = torch.randn(rows, 1, generator=generator) * mask
    return {
        "old_log_prob": old.to(device, dtype),
        "log_prob": log_prob.to(device, dtype),
        "advantages": advantages.to(device, dtype),
        "response_mask": mask.to(device),
    }


def no_loss(
    log_prob: Tensor, response_mask: Tensor, loss_agg_mode: str, config: FSDPActorConfig, **_: object
) -> tuple[Tensor, dict[str, float]]:
    loss = agg_loss(log_prob, response_mask, loss_agg_mode, **config.global_batch_info)
    return loss, {"actor/loss": loss.item()}


def step(loss_mode: str, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    """Forward and backward, as verl's ppo_loss does it."""
    loss_function = no_loss if loss_mode == NONE else get_policy_loss_fn(loss_mode)
    config = actor_config(loss_mode)

    def run() -> Tensor:
        log_prob = batch["log_prob"].detach().requires_grad_()
        loss, _ = loss_function(
            **{**batch, "log_prob": log_prob}, loss_agg_mode="token-mean", config=config, rollout_is_weights=None
        )
        loss.backward()
        return log_prob.grad

    return run


def measure(shape: tuple[int, int], dtype: torch.dtype, rounds: int, device: str) -> dict[str, object]:
    batch = micro_batch(*shape, dtype, device)
    contenders = {name: step(name, batch) for name in (OURS, *THEIRS, NONE)}
    on_gpu = device == "cuda"
    seconds = interleaved_seconds(contenders, rounds, cuda_clock if on_gpu else time.process_time)
    peaks = {name: (cuda_peak_bytes if on_gpu else peak_bytes)(run) for name, run in contenders.items()}
    return {
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "milliseconds": {name: spread([1e3 * value for value in values]) for name, values in seconds.items()},
        "time_ratio": ratios(seconds, OURS),
        "least_ratio": ratios(seconds, NONE)["vanilla"],
        "peak_bytes": peaks,
        "memory_ratio": {name: peaks[OURS] / peaks[name] for name in THEIRS},
    }


def table(results: list[dict]) -> str:
    head = ["(B, T)", "type", "lad, ms"]
    head += (
        [f"time / {name}" for name in THEIRS] + ["none / vanilla", "lad, MB"] + [f"memory / {name}" for name in THEIRS]
    )
    rows = [
        [
            tuple(result["shape"]),
            result["dtype"],
            f"{result['milliseconds'][OURS]['median']:.2f}",
            *(ratio_text(result["time_ratio"][name]) for name in THEIRS),
            ratio_text(result["least_ratio"]),
            f"{result['peak_bytes'][OURS] / 1e6:.1f}",
            *(f"{result['memory_ratio'][name]:.2f}" for name in THEIRS),
        ]
        for result in results
    ]
    return markdown_table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--largest", type=int, default=64 * 16384, help="leave out shapes with more tokens")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shapes = [shape for shape in SHAPES if shape[0] * shape[1] <= arguments.largest]
    results = [measure(shape, dtype, arguments.rounds, arguments.device) for dtype in DTYPES for shape in shapes]
    write_results("loss" if arguments.device == "cpu" else "loss_gpu", results)
    print(table(results))


if __name__ == "__main__":
    main()
