"""How the cost grows, next to what no implementation can do without: `python tests/benchmarks/bench_growth.py`.

Left: time of the loss with its metrics against the number of tokens, beside verl's vanilla, and the time to read three
numbers and a mask bit and to write one gradient a token at the bandwidth of a large copy. Right: time of
lad_linear_loss against the vocabulary, beside the logits at once, and the longer of two times: to read the LM head and
write its gradient, and to do the three matrix products at the rate of a large one. Writes docs/cost.png.
"""

import argparse
import time
from pathlib import Path

from measure import interleaved_seconds, markdown_table, spread, write_results  # isort: skip

import torch
from bench_linear import inputs, linear, naive
from bench_loss import OURS, micro_batch, step
from torch import Tensor

from verl_lad import LADConfig

FIGURE = Path(__file__).parents[2] / "docs/cost.png"
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
ROWS = 32
VOCABULARIES = (1024, 4096, 16384, 65536, 151_936)
TOKENS, HIDDEN = 512, 896
BYTES_PER_TOKEN = 3 * 4 + 1 + 4


def bytes_per_second() -> float:
    """Read and written, of a copy far larger than the caches."""
    source, target = torch.ones(2**26), torch.empty(2**26)
    seconds = interleaved_seconds({"copy": lambda: target.copy_(source)}, 5)["copy"]
    return 2 * source.nbytes / spread(seconds)["median"]


def operations_per_second() -> float:
    """Of a matrix product of the same shape as those of the LM head."""
    hidden, weight = torch.randn(TOKENS, HIDDEN), torch.randn(16384, HIDDEN)
    seconds = interleaved_seconds({"mm": lambda: hidden @ weight.t()}, 5, clock=time.perf_counter)["mm"]
    return 2 * TOKENS * HIDDEN * len(weight) / spread(seconds)["median"]


def against_tokens(rounds: int, bandwidth: float) -> list[dict[str, float]]:
    points = []
    for length in LENGTHS:
        batch = micro_batch(ROWS, length, torch.float32)
        seconds = interleaved_seconds({name: step(name, batch) for name in (OURS, "vanilla")}, rounds)
        tokens = ROWS * length
        points.append(
            {
                "tokens": tokens,
                **{name: spread(values)["median"] for name, values in seconds.items()},
                "limit": tokens * BYTES_PER_TOKEN / bandwidth,
            }
        )
    return points


def against_vocabulary(rounds: int, bandwidth: float, rate: float) -> list[dict[str, float]]:
    points = []
    for vocabulary in VOCABULARIES:
        x: dict[str, Tensor] = inputs(1, TOKENS, HIDDEN, vocabulary, torch.float32)
        contenders = {"linear": linear(x, LADConfig()), "naive": naive(x, LADConfig())}
        seconds = interleaved_seconds(contenders, rounds, clock=time.perf_counter)
        of_bytes = 2 * x["weight"].nbytes / bandwidth
        of_operations = 3 * 2 * TOKENS * HIDDEN * vocabulary / rate
        points.append(
            {
                "vocabulary": vocabulary,
                **{name: spread(values)["median"] for name, values in seconds.items()},
                "limit_of_bytes": of_bytes,
                "limit_of_operations": of_operations,
                "limit": max(of_bytes, of_operations),
            }
        )
    return points


def draw(tokens: list[dict[str, float]], vocabulary: list[dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = (
        (
            "tokens",
            "slots of the micro-batch, 32 responses",
            tokens,
            {OURS: "LAD, metrics included", "vanilla": "verl's vanilla"},
        ),
        (
            "vocabulary",
            f"vocabulary, {TOKENS} tokens, H = {HIDDEN}",
            vocabulary,
            {"linear": "lad_linear_loss", "naive": "logits at once"},
        ),
    )
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for axis, (key, label, points, lines) in zip(axes, panels, strict=True):
        for (name, legend), colour in zip(lines.items(), ("#1b6ca8", "#b04a2f"), strict=True):
            axis.plot([p[key] for p in points], [p[name] for p in points], "o-", label=legend, color=colour, ms=4)
        axis.plot([p[key] for p in points], [p["limit"] for p in points], "--", label="lower limit", color="#555555")
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds, forward and backward")
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    figure.savefig(FIGURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bandwidth, rate = bytes_per_second(), operations_per_second()
    tokens = against_tokens(arguments.rounds, bandwidth)
    vocabulary = against_vocabulary(max(2, arguments.rounds // 3), bandwidth, rate)
    write_results(
        "growth",
        {
            "bytes_per_second": bandwidth,
            "operations_per_second": rate,
            "against_tokens": tokens,
            "against_vocabulary": vocabulary,
        },
    )
    draw(tokens, vocabulary)
    print(f"copy {bandwidth / 1e9:.1f} GB/s, matrix product {rate / 1e9:.0f} Gflop/s\n")
    for key, points in (("tokens", tokens), ("vocabulary", vocabulary)):
        head = list(points[0])
        print(
            markdown_table(head, [[p[key], *(f"{1e3 * p[name]:.2f} ms" for name in head[1:])] for p in points]) + "\n"
        )


if __name__ == "__main__":
    main()
