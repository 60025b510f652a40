"""Replace two functions of torch with which verl and FSDP2 presume an accelerator."""

import functools
from typing import Any

import torch.distributed
from torch.distributed.fsdp import CPUOffloadPolicy


def install() -> None:
    """Wrap torch.distributed.init_process_group and CPUOffloadPolicy, once a process."""
    _accept_duplicate_backends()
    _never_pin_memory()


def _accept_duplicate_backends() -> None:
    """Remove repeated backends from the string that init_process_group gets.

    verl/utils/distributed.py passes f"cpu:gloo,{device}:{backend}", here "cpu:gloo,cpu:gloo", which torch refuses:
    "Duplicate device type cpu in backend string".
    """
    original = torch.distributed.init_process_group

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        if isinstance(backend, str):
            backend = ",".join(dict.fromkeys(backend.split(",")))
        original(backend, *args, **kwargs)

    torch.distributed.init_process_group = init_process_group


def _never_pin_memory() -> None:
    """Make CPUOffloadPolicy ignore pin_memory=True.

    verl/workers/engine/fsdp/transformer_impl.py offloads a reference policy with it. Pinning needs an accelerator:
    "Cannot access accelerator device when none is available".
    """
    original = CPUOffloadPolicy.__init__

    @functools.wraps(original)
    def init(self: CPUOffloadPolicy, pin_memory: bool = False) -> None:
        original(self, pin_memory=False)

    CPUOffloadPolicy.__init__ = init  # type: ignore[method-assign]
