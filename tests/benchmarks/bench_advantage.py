"""The advantage estimator against verl's grpo and grpo_vectorized: `python tests/benchmarks/bench_advantage.py`.

Called as verl's trainer calls them, with uids as an array of strings, 16 responses a prompt in random order and 64
slots a response. CPU time of one thread, interleaved.
"""

import argparse
import uuid
from collections.abc import Callable

from measure import interleaved_seconds, markdown_table, ratio_text, ratios, spread, write_results  # isort: skip

import numpy as np
import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

OURS = "lad"
THEIRS = ("grpo", "grpo_vectorized")
RESPONSES = (64, 512, 4096, 65_536)
PER_PROMPT = 16
SLOTS = 64


def estimate(name: str, responses: int) -> Callable[[], tuple[Tensor, Tensor]]:
    rng = np.random.default_rng(0)
    prompts = [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(responses // PER_PROMPT)]
    uids = np.repeat(np.array(prompts, dtype=object), PER_PROMPT)
    rng.shuffle(uids)
    rewards = torch.zeros(responses, SLOTS)
    rewards[:, -1] = torch.from_numpy(rng.random(responses))
    mask = torch.ones(responses, SLOTS)
    estimator = get_adv_estimator_fn(name)
    return lambda: estimator(token_level_rewards=rewards, response_mask=mask, index=uids, config=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for responses in RESPONSES:
        contenders = {name: estimate(name, responses) for name in (OURS, *THEIRS)}
        expected = contenders["grpo"]()[0]
        torch.testing.assert_close(contenders[OURS]()[0], expected, rtol=1e-5, atol=1e-5)
        seconds = interleaved_seconds(contenders, arguments.rounds if responses < 10_000 else 3)
        results.append(
            {
                "responses": responses,
                "milliseconds": {name: spread([1e3 * value for value in values]) for name, values in seconds.items()},
                "times_as_fast": ratios(seconds, OURS, inverse=True),
            }
        )
    write_results("advantage", results)
    head = ["responses", *(f"{name}, ms" for name in (OURS, *THEIRS)), *(f"{name} / lad" for name in THEIRS)]
    rows = [
        [
            result["responses"],
            *(f"{result['milliseconds'][name]['median']:.2f}" for name in (OURS, *THEIRS)),
            *(ratio_text(result["times_as_fast"][name]) for name in THEIRS),
        ]
        for result in results
    ]
    print(markdown_table(head, rows))


if __name__ == "__main__":
    main()
