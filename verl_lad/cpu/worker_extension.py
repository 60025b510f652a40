"""Define vLLM's end of the weight socket. vLLM imports this module in each worker before it loads the model."""

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from verl_lad.cpu.vllm_rollout import keep_linear_weights, own_socket

keep_linear_weights()


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """verl's worker extension, with the socket in the run's own directory; the other end is `CPUServerAdapter`."""

    def _get_zmq_handle(self) -> str:
        return own_socket(super()._get_zmq_handle())
