"""Compare four ways from hidden states to the loss and back, in time and memory, on a CPU or a GPU.

lad_linear_loss     ours
logits at once      what a trainer does without any of these: log_softmax of all logits, then lad_loss
trl's LM head       log-probs from TRL's chunked head, then lad_loss, as LADTrainer does
liger               Liger's fused linear GRPO loss, one response a chunk, compiled on a GPU (its default) and not on a
                    CPU; GRPO's loss costs about as much as LAD's; token level only

`python tests/benchmarks/bench_linear.py [--tokens 4096] [--hidden 896] [--threads 2]`, or for the target on a GPU
`... --device cuda --tokens 16384 --hidden 896 2048 --cases bfloat16/token float32/token --output linear.json`.
Each way computes the gradients of hidden states and LM head. Time is wall-clock time, interleaved, with the GPU
synchronised before and after. Memory is the allocator's peak beyond the inputs, including the returned gradients.
A package that is not installed is not compared: `make bench` installs Liger.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

from measure import (  # isort: skip
    cuda_clock,
    cuda_peak_bytes,
    interleaved_seconds,
    markdown_table,
    peak_bytes,
    ratio_text,
    ratios,
    spread,
    write_results,
)

import torch
from torch import Tensor

from verl_lad import LADConfig
from verl_lad.objective import aggregation_weights, lad_linear_loss, lad_loss

OURS = "lad_linear_loss"
NAIVE = "logits at once"
TRL = "trl's LM head"
LIGER = "liger"
TRL_CHUNK = 32768
CASES = ["float32/token", "float32/sequence", "bfloat16/token"]
Inputs = dict[str, Tensor]
Run = Callable[[], tuple[Tensor, ...]]


def inputs(
    responses: int, length: int, hidden: int, vocabulary: int, dtype: torch.dtype, device: str = "cpu"
) -> Inputs:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    return {
        "hidden": normal(responses, length, hidden).to(dtype).requires_grad_(),
        "weight": (normal(vocabulary, hidden) / hidden**0.5).to(dtype).requires_grad_(),
        "labels": torch.randint(vocabulary, (responses, length), generator=generator, device=device),
        "old_log_prob": -12.5 + normal(responses, length),
        "advantages": normal(responses),
        "mask": torch.ones(responses, length, dtype=torch.bool, device=device),
    }


def gradients(loss: Tensor, x: Inputs) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, (x["hidden"], x["weight"]))


def linear(x: Inputs, config: LADConfig, chunk_size: int | None = None) -> Run:
    def run() -> tuple[Tensor, ...]:
        result = lad_linear_loss(
            x["hidden"],
            x["weight"],
            x["labels"],
            x["old_log_prob"],
            x["advantages"],
            x["mask"],
            config,
            response_weights=aggregation_weights(x["mask"], "token-mean"),
            chunk_size=chunk_size,
        )
        return gradients(result.loss, x)

    return run


def naive(x: Inputs, config: LADConfig) -> Run:
    def run() -> tuple[Tensor, ...]:
        logits = (x["hidden"] @ x["weight"].t()).float()
        log_prob = logits.log_softmax(-1).gather(-1, x["labels"].unsqueeze(-1)).squeeze(-1)
        del logits
        return from_log_prob(log_prob, x, config)

    return run


def from_log_prob(log_prob: Tensor, x: Inputs, config: LADConfig) -> tuple[Tensor, ...]:
    matrix, _ = lad_loss(log_prob, x["old_log_prob"], x["advantages"], x["mask"], config)
    return gradients((matrix.sum(-1) * aggregation_weights(x["mask"], "token-mean")).sum(), x)


def trl(x: Inputs, config: LADConfig) -> Run:
    from trl.kernels import ChunkedLogProbFunction

    def run() -> tuple[Tensor, ...]:
        tokens = x["hidden"].flatten(0, 1), x["weight"], None, x["labels"].flatten()
        log_prob = ChunkedLogProbFunction.apply(*tokens, 1.0, TRL_CHUNK, None, 1.0, ())[0]
        return from_log_prob(log_prob.view(x["mask"].shape), x, config)

    return run


def liger(x: Inputs) -> Run:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    compiled = x["hidden"].is_cuda
    loss = LigerFusedLinearGRPOLoss(beta=0.0, compiled=compiled, use_ref_model=False, loss_type="bnpo")

    def run() -> tuple[Tensor, ...]:
        value, _ = loss(
            x["hidden"],
            x["weight"],
            x["labels"],
            x["mask"].float(),
            x["advantages"],
            old_per_token_logps=x["old_log_prob"],
        )
        return gradients(value, x)

    return run


def difference(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """Largest norm of a gradient's difference, relative to the gradient's norm."""
    return max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(ours, theirs, strict=True))


def measure(arguments: argparse.Namespace, hidden: int, dtype: str, ratio: str) -> dict[str, object]:
    length = arguments.tokens // arguments.responses
    shape = arguments.responses, length, hidden, arguments.vocabulary
    x = inputs(*shape, getattr(torch, dtype), arguments.device)
    config = LADConfig(ratio=ratio, eta=1.0)
    contenders = {OURS: linear(x, config, arguments.chunk_size), NAIVE: naive(x, config)}
    if importlib.util.find_spec("trl"):
        contenders[TRL] = trl(x, config)
    if ratio == "token" and importlib.util.find_spec("liger_kernel"):
        contenders[LIGER] = liger(x)
    if arguments.device == "cuda":
        seconds = interleaved_seconds(contenders, arguments.rounds, clock=cuda_clock)
        peaks = {name: cuda_peak_bytes(run) for name, run in contenders.items()}
    else:
        peaks = {name: peak_bytes(run, warm_up=False) for name, run in contenders.items()}
        seconds = interleaved_seconds(contenders, arguments.rounds, clock=time.perf_counter)
    return {
        "device": arguments.device,
        "tokens": arguments.tokens,
        "vocabulary": arguments.vocabulary,
        "hidden": hidden,
        "chunk_size": arguments.chunk_size,
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "ratio": ratio,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "time_ratio": ratios(seconds, OURS),
        "peak_bytes": peaks,
        "bytes_of_the_gradients": x["hidden"].nbytes + x["weight"].nbytes,
        "gradient_difference_from_logits_at_once": difference(contenders[OURS](), contenders[NAIVE]()),
    }


def table(results: list[dict]) -> str:
    head = [
        "tokens x V x H",
        "type",
        "ratio",
        "path",
        "s",
        "time of ours / its",
        "peak, MB",
        "without gradients, MB",
        "ours / its",
    ]
    rows = []
    for result in results:
        ours = result["peak_bytes"][OURS]
        for name, peak in result["peak_bytes"].items():
            rows.append(
                [
                    f"{result['tokens']} x {result['vocabulary']} x {result['hidden']}",
                    result["dtype"],
                    result["ratio"],
                    name,
                    f"{result['seconds'][name]['median']:.3f}",
                    ratio_text(result["time_ratio"][name]) if name != OURS else "",
                    f"{peak / 1e6:.0f}",
                    f"{(peak - result['bytes_of_the_gradients']) / 1e6:.0f}",
                    f"{ours / peak:.3f}" if name != OURS else "",
                ]
            )
    return markdown_table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, nargs="+", default=[896])
    parser.add_argument("--cases", nargs="+", default=CASES, help="type/ratio level")
    parser.add_argument("--chunk-size", type=int, help="of ours; its default if not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write in the place of results/linear.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for module in ("trl", "liger_kernel"):
        if not importlib.util.find_spec(module):
            print(f"{module} is not installed: not compared")
    results = [measure(arguments, hidden, *case.split("/")) for hidden in arguments.hidden for case in arguments.cases]
    write_results("linear", results, arguments.output)
    print(table(results))


if __name__ == "__main__":
    main()
