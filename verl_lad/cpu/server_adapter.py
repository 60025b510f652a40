"""Define the trainer's end of the weight socket."""

from typing import Any

from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

from verl_lad.cpu.vllm_rollout import own_socket


class CPUServerAdapter(ServerAdapter):
    """verl's adapter, with the socket in the run's own directory; the other end is `CPUWorkerExtension`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.zmq_handle: str = own_socket(self.zmq_handle)
