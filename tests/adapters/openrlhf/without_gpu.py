"""Stand-ins for what OpenRLHF needs of a GPU. What a test runs in a process with them is otherwise OpenRLHF's own code.

flash_attn: OpenRLHF imports five of its functions, and calls them for packed samples alone; there is no build of it for
a CPU. `provide_flash_attn` gives the two modules that hold them, and not the package above: to everybody else, as
transformers, flash_attn is not there. `import_openrlhf`, for the process that runs the tests, takes even them away
again, and nothing else stands in there.

`stand_in`, for worker processes alone, also replaces
- torch.cuda.current_device, current_stream, set_device and synchronize, which OpenRLHF calls without asking whether
  there is a GPU;
- DeepSpeed's FusedAdam by torch's AdamW, by DeepSpeed's own option `torch_adam`, and its shared-memory collectives by
  gloo's: both would be compiled at the first call, in a minute;
- vLLM's PyNcclCommunicator, through which OpenRLHF sends weights, by vLLM's own StatelessProcessGroup, which it is
  made from.
"""

import importlib
import sys
import types
from typing import Any

FLASH_ATTN = {
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils.distributed": ("all_gather",),
}


class Device(str):
    """The device "cpu", which OpenRLHF's replay buffer writes as f"cuda:{device}" into a device that it never uses."""

    def __format__(self, spec: str) -> str:
        return "0"


class Communicator:
    """PyNcclCommunicator as OpenRLHF uses it."""

    def __init__(self, group: Any, device: Any) -> None:
        self.group = group

    def broadcast(self, tensor: Any, src: int, stream: Any) -> None:
        """Into `tensor`, from rank `src`."""
        tensor.copy_(self.group.broadcast(tensor, src))


def _provide(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module


def provide_flash_attn() -> None:
    """In this process, for `import openrlhf.models`."""
    for name, functions in FLASH_ATTN.items():
        _provide(name, **dict.fromkeys(functions))


def import_openrlhf() -> None:
    """In the process that runs the tests, before any `import openrlhf.models`."""
    provide_flash_attn()
    importlib.import_module("openrlhf.models")
    for name in FLASH_ATTN:
        del sys.modules[name]


def provide_communicator() -> None:
    """In this process, for OpenRLHF's stateless_init_process_group."""
    _provide("vllm.distributed.device_communicators.pynccl", PyNcclCommunicator=Communicator)


def stand_in() -> None:
    """In this process, for all of OpenRLHF's Ray actors."""
    provide_flash_attn()
    provide_communicator()
    torch = importlib.import_module("torch")
    torch.cuda.current_device = lambda: Device("cpu")
    torch.cuda.current_stream = lambda device=None: None
    torch.cuda.set_device = lambda device: None
    torch.cuda.synchronize = lambda device=None: None

    deepspeed = importlib.import_module("deepspeed")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    choose = deepspeed.DeepSpeedEngine.get_optimizer_configuration

    def choose_torch(engine: Any, parameters: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        parameters["torch_adam"] = True
        return choose(engine, parameters, *args, **kwargs)

    deepspeed.DeepSpeedEngine.get_optimizer_configuration = choose_torch
