"""From hidden states to the loss and back: lad_linear_loss, the logits at once, TRL's LM head, Liger's fused GRPO.

`python tests/benchmarks/bench_fused.py [--tokens 4096] [--vocabulary 151936] [--hidden 896] [--threads 2]`. Forward and
backward, gradients of hidden states and LM head; float32 and bfloat16. Time is wall-clock time, interleaved. Memory is
the allocator's peak beyond the inputs, and so includes the gradients that are returned. TRL's own chunked LM head gives
log-probs, from which our loss is computed as LADTrainer does. Liger (`pip install --no-deps liger-kernel`) computes
GRPO's loss, which costs about the same: token level, one response a chunk, not compiled.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable

from measure import interleaved_seconds, markdown_table, peak_bytes, ratio_text, ratios, spread, write_results  # isort: skip

import torch
from torch import Tensor

from verl_lad import LADConfig
from verl_lad.objective import aggregation_weights, lad_linear_loss, lad_responses

OURS = "lad_linear_loss"
NAIVE = "logits at once"
TRL = "trl's LM head"
LIGER = "liger"
TRL_CHUNK = 32768
Inputs = dict[str, Tensor]


def inputs(responses: int, length: int, hidden: int, vocabulary: int, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "hidden": normal(responses, length, hidden).to(dtype).requires_grad_(),
        "weight": (normal(vocabulary, hidden) / hidden**0.5).to(dtype).requires_grad_(),
        "labels": torch.randint(vocabulary, (responses, length), generator=generator),
        "old_log_prob": -12.5 + normal(responses, length),
        "advantages": normal(responses),
        "mask": torch.ones(responses, length, dtype=torch.bool),
    }


def gradients(loss: Tensor, x: Inputs) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, (x["hidden"], x["weight"]))


def fused(x: Inputs, config: LADConfig, chunk_size: int | None = None) -> Callable[[], tuple[Tensor, ...]]:
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


def naive(x: Inputs, config: LADConfig) -> Callable[[], tuple[Tensor, ...]]:
    def run() -> tuple[Tensor, ...]:
        logits = (x["hidden"] @ x["weight"].t()).float()
        log_prob = logits.log_softmax(-1).gather(-1, x["labels"].unsqueeze(-1)).squeeze(-1)
        del logits
        return of_log_prob(log_prob, x, config)

    return run


def of_log_prob(log_prob: Tensor, x: Inputs, config: LADConfig) -> tuple[Tensor, ...]:
    sums = lad_responses(log_prob, x["old_log_prob"], x["advantages"], x["mask"], config).loss_sum
    return gradients((sums * aggregation_weights(x["mask"], "token-mean")).sum(), x)


def trl(x: Inputs, config: LADConfig) -> Callable[[], tuple[Tensor, ...]]:
    from trl.kernels import ChunkedLogProbFunction

    def run() -> tuple[Tensor, ...]:
        tokens = x["hidden"].flatten(0, 1), x["weight"], None, x["labels"].flatten()
        log_prob = ChunkedLogProbFunction.apply(*tokens, 1.0, TRL_CHUNK, None, 1.0, ())[0]
        return of_log_prob(log_prob.view(x["mask"].shape), x, config)

    return run


def liger(x: Inputs) -> Callable[[], tuple[Tensor, ...]]:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    loss = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False, loss_type="bnpo")

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


def measure(arguments: argparse.Namespace, dtype: torch.dtype, ratio: str) -> dict[str, object]:
    length = arguments.tokens // arguments.responses
    x = inputs(arguments.responses, length, arguments.hidden, arguments.vocabulary, dtype)
    config = LADConfig(ratio=ratio, eta=1.0)
    contenders = {OURS: fused(x, config, arguments.chunk_size), NAIVE: naive(x, config)}
    if importlib.util.find_spec("trl"):
        contenders[TRL] = trl(x, config)
    if ratio == "token" and importlib.util.find_spec("liger_kernel"):
        contenders[LIGER] = liger(x)
    peaks = {name: peak_bytes(run, warm_up=False) for name, run in contenders.items()}
    kept = sum(x[name].numel() * x[name].element_size() for name in ("hidden", "weight"))
    seconds = interleaved_seconds(contenders, arguments.rounds, clock=time.perf_counter)
    return {
        "tokens": arguments.tokens,
        "vocabulary": arguments.vocabulary,
        "hidden": arguments.hidden,
        "chunk_size": arguments.chunk_size,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "ratio": ratio,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "time_ratio": ratios(seconds, OURS),
        "peak_bytes": peaks,
        "bytes_of_the_gradients": kept,
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
                    f"{result['seconds'][name]['median']:.2f}",
                    ratio_text(result["time_ratio"][name]) if name != OURS else "",
                    f"{peak / 1e6:.0f}",
                    f"{(peak - result['bytes_of_the_gradients']) / 1e6:.0f}",
                    f"{ours / peak:.3f}" if name != OURS else "",
                ]
            )
    return markdown_table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--chunk-size", type=int, help="of ours; its default if not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for module in ("trl", "liger_kernel"):
        if not importlib.util.find_spec(module):
            print(f"{module} is not installed: not compared")
    cases = [(torch.float32, "token"), (torch.float32, "sequence"), (torch.bfloat16, "token")]
    results = [measure(arguments, dtype, ratio) for dtype, ratio in cases]
    write_results("fused", results)
    print(table(results))


if __name__ == "__main__":
    main()
