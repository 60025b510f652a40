"""Register the platform `cpu` with verl (verl/plugin/platform)."""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

PLATFORM_NAME = "cpu"


class _CPUDeviceModule(types.ModuleType):
    """torch.cpu, and the functions of torch.cuda that torch.cpu lacks and verl calls on `get_torch_device()`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> torch.device:
        # verl passes this on to Tensor.to(), where an int would mean cuda:<int>.
        return torch.device("cpu")

    def set_device(self, device: object) -> None:
        pass

    def synchronize(self, device: object = None) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def ipc_collect(self) -> None:
        pass

    def get_device_name(self, device: object = None) -> str:
        return "CPU"

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        torch.set_rng_state(state)

    def memory_allocated(self, device: object = None) -> int:
        """Return the resident memory of this process in bytes, since no device has an allocator to ask."""
        return int(psutil.Process().memory_info().rss)

    memory_reserved = memory_allocated
    max_memory_allocated = memory_allocated
    max_memory_reserved = memory_allocated

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)


_DEVICE_MODULE = _CPUDeviceModule("torch.cpu")


@PlatformRegistry.register(platform=PLATFORM_NAME)
class PlatformCPU(PlatformBase):
    """A host without accelerators: gloo for communication, logical GPU slots for Ray, shared memory for weights."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DEVICE_MODULE

    def is_available(self) -> bool:
        """Return True: a CPU is always there."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Return False, so that detection never selects this platform: VERL_PLATFORM=cpu does."""
        return False

    def current_device(self) -> torch.device:
        """Return a device where other platforms return an index: `tensor.to(0)` would mean cuda:0."""
        return torch.device("cpu")

    def device_count(self) -> int:
        """Return 1."""
        return 1

    def set_device(self, device_index: int) -> None:
        """Do nothing: there is no device to set."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Do nothing: CPU work is done when its call returns."""

    def manual_seed(self, seed: int) -> None:
        """Seed torch's generator."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed torch's generator."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """Do nothing: there is no caching allocator."""

    def empty_cache(self) -> None:
        """Do nothing: there is no caching allocator."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """Return verl's value for unknown, which trainer/constants_ppo.py reads at import."""
        return None, None

    def communication_backend_name(self) -> str:
        """Return the backend of torch.distributed for CPU tensors."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """Return the variable that Ray sets for its resource GPU; nothing reads it here."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """Do nothing: there is no device profiler."""
        yield

    def profiler_start(self) -> None:
        """Do nothing: there is no device profiler."""

    def profiler_stop(self) -> None:
        """Do nothing: there is no device profiler."""

    def ray_resource_name(self) -> str:
        """Return GPU: ray.init(num_gpus=N) accepts any N as logical slots on a machine without GPUs."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Return CUDA's variable, so that verl and not Ray decides what a worker sees."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """Return False, so that weights go through shared memory instead of CUDA IPC."""
        return False

    def cudart(self) -> None:
        """Return None: there is no CUDA runtime."""
