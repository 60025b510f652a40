"""Generate problems with many right answers, "Name an animal that begins with c.", and score a response.

`compute_score` is the custom reward function that verl calls (reward.custom_reward_function.path names this file).
"""

import random
from typing import Any, NamedTuple

DATA_SOURCE = "verl_lad/animals"
NAMES = """
alligator alpaca anaconda ant anteater antelope ape armadillo baboon badger bat bear beaver bee beetle bird bison boar
buffalo bull bumblebee butterfly camel canary caribou cat caterpillar cheetah chicken chimpanzee chipmunk cobra
cockroach cod cow coyote crab crane cricket crocodile crow deer dingo dog dolphin donkey dove dragonfly duck eagle eel
elephant elk emu falcon ferret finch fish flamingo flea fly fox frog gazelle gecko gerbil giraffe gnat goat goldfish
goose gorilla grasshopper grouse gull hamster hare hawk hedgehog hen heron hippopotamus hornet horse hummingbird hyena
lamb lark lemming lemur leopard lion lizard llama lobster locust lynx magpie mole mongoose monkey moose mosquito moth
mouse mule panda panther parrot partridge peacock pelican penguin pheasant pig pigeon pony porcupine porpoise puma
python rabbit raccoon ram rat raven reindeer rhinoceros rooster salamander salmon sardine scorpion seahorse seal shark
sheep shrew shrimp skunk sloth slug snail snake sparrow spider squid squirrel starfish stork swallow swan tapir
termite tiger toad tortoise trout tuna turkey turtle wallaby walrus wasp weasel whale wolf wolverine wombat woodpecker
worm
"""
ANIMALS = frozenset(NAMES.split())
LETTERS = sorted({animal[0] for animal in ANIMALS})


class Problem(NamedTuple):
    """A letter, and the examples before it: animals that begin with other letters."""

    letter: str
    examples: tuple[str, ...]

    def chat(self) -> list[dict[str, str]]:
        """Return the messages of the prompt."""
        turns = []
        for animal in self.examples:
            turns += [{"role": "user", "content": question(animal[0])}, {"role": "assistant", "content": animal}]
        return [*turns, {"role": "user", "content": question(self.letter)}]


def question(letter: str) -> str:
    """Return the text that asks for an animal."""
    return f"Name an animal that begins with {letter}."


def make_problem(random_: random.Random) -> Problem:
    """Make a problem with two examples."""
    letter, *others = random_.sample(LETTERS, 3)
    return Problem(letter, tuple(random_.choice(sorted(a for a in ANIMALS if a[0] == other)) for other in others))


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **unused: Any
) -> dict[str, float | str]:
    """Score 1 if the response is one animal of the list that begins with the letter, else 0."""
    solution = solution_str.strip().lower().removesuffix(".")
    right = solution in ANIMALS and solution.startswith(ground_truth)
    return {"score": float(right), "acc": float(right), "solution": solution, "benchmark": "animals"}
