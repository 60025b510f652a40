"""Reward of a response, for OpenRLHF's --reward.remote_url: the share of even digits among its characters."""


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, float]:
    """For one query at a time, as OpenRLHF's executor asks."""
    ((query, prompt),) = zip(queries, prompts, strict=True)
    characters = query.replace(" ", "").removeprefix(prompt)
    reward = sum(character in "02468" for character in characters) / max(len(characters), 1)
    return {"rewards": reward, "scores": reward}
