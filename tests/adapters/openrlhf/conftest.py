import os
import runpy
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ..conftest import FRAMEWORKS
from .without_gpu import import_openrlhf

import_openrlhf()

TESTS = Path(__file__).parents[2]
GIVEN = os.environ.get("PYTHONPATH", "").split(os.pathsep)
PYTHONPATH = os.pathsep.join(filter(None, [*GIVEN, str(TESTS), str(TESTS.parent), str(FRAMEWORKS)]))
"""For a process that a test starts. A patched OpenRLHF in PYTHONPATH (test_patch.py) comes before the installed one."""
MODEL = ("--actor.model_name_or_path", "model")
"""No flag of OpenRLHF is required, but without a model its program ends in an error of its own."""
PROGRAM = "openrlhf.cli.train_ppo_ray"
CHARACTERS = "0123456789+="


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    """A Qwen2 that writes sums, with random weights. Its heads are of a size that vLLM's CPU build can do."""
    path = tmp_path_factory.mktemp("model")
    words = {text: i for i, text in enumerate(["<pad>", "<eos>", "<unk>", *CHARACTERS])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words), hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.2, pad_token_id=0, eos_token_id=1,
        bos_token_id=None,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


class RayStarts(Exception):
    """OpenRLHF's program has checked its arguments and is about to start Ray."""


def program_arguments(patch: pytest.MonkeyPatch, *flags: str) -> Namespace:
    """The arguments with which OpenRLHF's program would start Ray."""

    def starts() -> bool:
        raise RayStarts

    patch.delitem(sys.modules, PROGRAM, raising=False)  # runpy warns of a module that it is to run
    patch.setattr("sys.argv", [PROGRAM, *MODEL, "--reward.remote_url", "reward.py", "--vllm.num_engines", "1", *flags])
    patch.setattr("ray.is_initialized", starts)  # the first thing that its `train` does
    with pytest.raises(RayStarts) as stopped:
        runpy.run_module(PROGRAM, run_name="__main__")
    (train,) = (entry.frame for entry in stopped.traceback if entry.frame.code.name == "train")
    return train.f_locals["args"]


def openrlhf_arguments(patch: pytest.MonkeyPatch, *flags: str) -> Namespace:
    """The same with our flags among its own, as under the launcher."""
    from verl_lad.adapters.openrlhf.arguments import lad_arguments

    with lad_arguments():
        return program_arguments(patch, *flags)


@pytest.fixture
def parse(monkeypatch) -> Callable[..., Namespace]:
    """parse("--flag", "value", ...): openrlhf_arguments of this test."""
    return partial(openrlhf_arguments, monkeypatch)
