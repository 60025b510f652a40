"""Trinity-RFT adapter (0.6.0): its GRPO with LAD's loss. algorithm_type: verl_lad.adapters.trinity.LADAlgorithm."""

from verl_lad.adapters.trinity.algorithm import LADAlgorithm, LADPolicyLossFn

__all__ = ["LADAlgorithm", "LADPolicyLossFn"]
