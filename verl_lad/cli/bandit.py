"""Run `verl-lad bandit`. The experiment itself is in `verl_lad.bandit`."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path


def run(output: Path, eta: float, seeds: int, steps: int, figure: bool) -> int:
    """Run the experiment, print its table, and write bandit.json and bandit.png.

    Args:
        output: directory to write to; created if missing.
        eta, seeds, steps: as for BanditConfig.
        figure: whether to draw bandit.png.

    Returns:
        Exit status: 0, or 2 if a setting is not allowed, the directory cannot be made, or matplotlib is missing.
    """
    if figure and find_spec("matplotlib") is None:
        print("the figure needs matplotlib: pip install 'verl-lad[report]', or --no-figure", file=sys.stderr)
        return 2

    import torch

    from verl_lad.bandit import BanditConfig, draw_figure, format_table, run_bandit

    try:
        config = BanditConfig(eta=eta, seeds=seeds, steps=steps)
        output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"verl-lad bandit: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # the tensors are small: waiting for a second thread costs more than it computes
    document = run_bandit(config)
    print(format_table(document))
    print()
    (output / "bandit.json").write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf-8")
    print(f"numbers: {output / 'bandit.json'} ({document['seconds']:.0f} s)")
    if figure:
        draw_figure(document, output / "bandit.png")
        print(f"figure: {output / 'bandit.png'}")
    return 0
