"""What a prompt says besides the problem. It is never part of a comparison between problems."""

# DAPO-Math-17k's own, word for word: every prompt of it begins and ends so.
DAPO_PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'
# Qwen2.5-Math's and many others', for backbones that were trained on boxed answers.
BOXED_SUFFIX = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
# verl's own for GSM8K, word for word (examples/data_preprocess/gsm8k.py): its reward reads the number after "####".
GSM8K_SUFFIX = ' Let\'s think step by step and output the final answer after "####".'
MATH_INSTRUCTIONS = ("answer", "boxed")


def math_prompt(question: str, instruction: str) -> str:
    """Return a mathematics problem with its instruction.

    Args:
        question: the problem.
        instruction: "answer", which is DAPO-Math-17k's and asks for a last line "Answer: X", or "boxed".

    Returns:
        The user's message.
    """
    return question + BOXED_SUFFIX if instruction == "boxed" else DAPO_PREFIX + question + DAPO_SUFFIX


def stdin_prompt(question: str) -> str:
    """Return a programming problem to be solved by a program that reads standard input. The wording is ours."""
    return (
        f"{question}\n\nWrite a Python program that reads the input from stdin and prints the answer to stdout. Reason "
        "step by step, then give the whole program in one block:\n\n```python\n# your program\n```"
    )


def function_prompt(question: str, starter_code: str) -> str:
    """Return a problem to be solved by completing the given code. The wording is ours."""
    return (
        f"{question}\n\nComplete the following Python code. Reason step by step, then give all of the code in one "
        f"block:\n\n```python\n{starter_code.rstrip()}\n```"
    )


def named_function_prompt(question: str, name: str) -> str:
    """Return a problem to be solved by a function of which only the name is known. The wording is ours."""
    return (
        f"{question}\n\nWrite a Python function named `{name}`. Reason step by step, then give all of the code in one "
        "block:\n\n```python\n# your code\n```"
    )
