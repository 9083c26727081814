"""Stepwise arithmetic, with the carries written out: {"a", "b" or "numbers", "answer", "rationale"}."""

import random

from t5x_like.tasks.synthetic.sampling import Offline, World, offline, worded

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ida", "Jon", "Kim", "Leo", "Mia")
THINGS = ("apples", "books", "coins", "cards", "pens", "shells", "stones", "stamps")


def number(rng: random.Random, digits: int) -> int:
    """A number of 1 to `digits` digits, every length as likely."""
    length = rng.randint(1, digits)
    return rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def digits_of(value: int, count: int) -> list[int]:
    """The last `count` digits, the last one first."""
    return [value // 10**place % 10 for place in range(count)]


def addition_steps(a: int, b: int) -> str:
    """Column by column from the right: `8 + 5 = 13, write 3, carry 1.`"""
    steps, carry = [], 0
    columns = max(len(str(a)), len(str(b)))
    for x, y in zip(digits_of(a, columns), digits_of(b, columns), strict=True):
        total = x + y + carry
        said = f"{x} + {y} + {carry} = {total}" if carry else f"{x} + {y} = {total}"
        steps.append(f"{said}, write {total % 10}, carry {total // 10}.")
        carry = total // 10
    if carry:
        steps.append(f"Write {carry}.")
    return " ".join(steps)


def addition(rng: random.Random) -> dict:
    a, b = number(rng, 3), number(rng, 3)
    return {"a": a, "b": b, "answer": str(a + b), "rationale": f"{addition_steps(a, b)} So {a} + {b} = {a + b}"}


def subtraction_steps(a: int, b: int) -> str:
    """Column by column from the right; what is borrowed is added before: `10 + 3 - 8 = 5, borrow 1.`"""
    steps, borrowed = [], 0
    columns = len(str(a))
    for x, y in zip(digits_of(a, columns), digits_of(b, columns), strict=True):
        taken = y + borrowed
        short = x < taken
        less = f"{y} - 1" if borrowed else f"{y}"
        said = f"10 + {x} - {less} = {10 + x - taken}" if short else f"{x} - {less} = {x - taken}"
        borrowed = int(short)
        steps.append(f"{said}, borrow {borrowed}.")
    return " ".join(steps)


def subtraction(rng: random.Random) -> dict:
    """The larger minus the smaller."""
    b, a = sorted((number(rng, 3), number(rng, 3)))
    return {"a": a, "b": b, "answer": str(a - b), "rationale": f"{subtraction_steps(a, b)} So {a} - {b} = {a - b}"}


def multiplication_steps(a: int, b: int) -> str:
    """Each digit of `a` times the digit `b`, with its carry."""
    steps, carry = [], 0
    for x in digits_of(a, len(str(a))):
        total = x * b + carry
        said = f"{x} * {b} + {carry} = {total}" if carry else f"{x} * {b} = {total}"
        steps.append(f"{said}, write {total % 10}, carry {total // 10}.")
        carry = total // 10
    if carry:
        steps.append(f"Write {carry}.")
    return " ".join(steps)


def multiplication(rng: random.Random) -> dict:
    a, b = number(rng, 3), rng.randrange(10)
    return {"a": a, "b": b, "answer": str(a * b), "rationale": f"{multiplication_steps(a, b)} So {a} * {b} = {a * b}"}


def sum_of_several(rng: random.Random) -> dict:
    """Three to five numbers of up to two digits, by running totals."""
    numbers = [number(rng, 2) for _ in range(rng.randint(3, 5))]
    total, steps = numbers[0], []
    for value in numbers[1:]:
        steps.append(f"{total} + {value} = {total + value}")
        total += value
    return {"numbers": numbers, "answer": str(total), "rationale": f"{'. '.join(steps)}. The sum is {total}"}


def larger_number(rng: random.Random) -> dict:
    a, b = two_different(rng)
    sign = ">" if a > b else "<"
    return {"a": a, "b": b, "answer": str(max(a, b)), "rationale": f"{a} {sign} {b}, so the larger is {max(a, b)}"}


def smaller_number(rng: random.Random) -> dict:
    a, b = two_different(rng)
    sign = ">" if a > b else "<"
    return {"a": a, "b": b, "answer": str(min(a, b)), "rationale": f"{a} {sign} {b}, so the smaller is {min(a, b)}"}


def two_different(rng: random.Random) -> tuple[int, int]:
    a = number(rng, 3)
    b = number(rng, 3)
    return (a, b) if a != b else (a, b + 1)


def parity(rng: random.Random) -> dict:
    a = number(rng, 3)
    answer = "odd" if a % 2 else "even"
    return {"a": a, "answer": answer, "rationale": f"The last digit of {a} is {a % 10}, so it is {answer}"}


def digit_sum(rng: random.Random) -> dict:
    a = number(rng, 4)
    total = sum(map(int, str(a)))
    return {"a": a, "answer": str(total), "rationale": f"{' + '.join(str(a))} = {total}"}


def word_problem(rng: random.Random) -> dict:
    """Somebody has things, gets some and gives some away, or has them in equal groups."""
    who, what = rng.choice(NAMES), rng.choice(THINGS)
    a, b, c = rng.randint(2, 20), rng.randint(2, 9), rng.randint(2, 9)
    stories = (
        (f"{who} has {a} {what} and gets {b} more.", f"{a} + {b} = {a + b}", a + b),
        (f"{who} has {a + b} {what} and gives {b} of them away.", f"{a + b} - {b} = {a}", a),
        (f"{who} has {b} bags with {c} {what} in each.", f"{b} * {c} = {b * c}", b * c),
        (
            f"{who} has {a + b} {what}, gives {b} away and then finds {c}.",
            f"{a + b} - {b} = {a}. {a} + {c} = {a + c}",
            a + c,
        ),
        (
            f"{who} has {b} boxes with {c} {what} in each and {a} loose ones.",
            f"{b} * {c} = {b * c}. {b * c} + {a} = {b * c + a}",
            b * c + a,
        ),
    )
    story, steps, answer = rng.choice(stories)
    return {
        "who": who,
        "what": what,
        "story": story,
        "answer": str(answer),
        "rationale": f"{steps}. The answer is {answer}",
    }


def calculated(sign: str, asked: str, done: str) -> tuple:
    """Wordings of a calculation with two numbers: `asked` is the result's name, `done` an order."""
    return worded(
        f"{{{{ a }}}} {sign} {{{{ b }}}} =",
        f"What is {{{{ a }}}} {sign} {{{{ b }}}}?",
        f"Write the {asked} {{{{ a }}}} and {{{{ b }}}}.",
        f"{done}: {{{{ a }}}}, {{{{ b }}}}",
        f"Calculate {{{{ a }}}} {sign} {{{{ b }}}} and give only the result.",
    )


def compared(which: str) -> tuple:
    return worded(
        f"Which number is {which}, {{{{ a }}}} or {{{{ b }}}}?",
        f"Write the {which} one of the numbers {{{{ a }}}} and {{{{ b }}}}.",
        f"{{{{ a }}}}, {{{{ b }}}}\nThe {which} number is",
        f"Of {{{{ a }}}} and {{{{ b }}}}, copy the number that is {which}.",
        f"List: {{{{ a }}}}, {{{{ b }}}}\nTask: copy the {which} number.",
        choices="{{ a }}\n{{ b }}",
    )


WORLDS = {
    "addition": World(addition, ("a", "b"), calculated("+", "sum of", "Add these numbers"), "arithmetic"),
    "subtraction": World(
        subtraction, ("a", "b"), calculated("-", "difference of", "Take the second number from the first"), "arithmetic"
    ),
    "multiplication": World(
        multiplication, ("a", "b"), calculated("*", "product of", "Multiply these numbers"), "arithmetic"
    ),
    "sum_of_several": World(
        sum_of_several,
        ("numbers",),
        worded(
            "{{ numbers | join(' + ') }} =",
            "What is the sum of {{ numbers | join(', ') }}?",
            "Add these numbers: {{ numbers | join(', ') }}",
            "{{ numbers | join(' ') }}\nAll of them together are",
            "Calculate {{ numbers | join(' + ') }} and give only the result.",
        ),
        "arithmetic",
    ),
    "larger_number": World(larger_number, ("a", "b"), compared("larger"), "comparison"),
    "smaller_number": World(smaller_number, ("a", "b"), compared("smaller"), "comparison"),
    "parity": World(
        parity,
        ("a",),
        worded(
            "Is {{ a }} even or odd?",
            "{{ a }}: write even or odd.",
            "Decide whether {{ a }} is an odd or an even number.",
            "The number {{ a }} is (even or odd)",
            "Number: {{ a }}\nTask: is it even or odd?",
            choices=("even", "odd"),
        ),
        "digits",
    ),
    "digit_sum": World(
        digit_sum,
        ("a",),
        worded(
            "What is the sum of the digits of {{ a }}?",
            "Add the digits of {{ a }}.",
            "{{ a }}\nThe digits add up to",
            "Number: {{ a }}\nTask: add all of its digits.",
            "Take the number {{ a }} apart and add its digits.",
        ),
        "digits",
    ),
    "word_problem": World(
        word_problem,
        ("story",),
        worded(
            "{{ story }} How many {{ what }} does {{ who }} have now?",
            "{{ story }}\nHow many {{ what }} are that?",
            "Read and calculate: {{ story }} The number of {{ what }} is",
            "{{ story }} Count the {{ what }} of {{ who }}.",
            "Problem: {{ story }}\nQuestion: how many {{ what }} does {{ who }} have?",
        ),
        "word_problem",
    ),
}


def named(name: str) -> World:
    """The world of a name, found again in any process."""
    return WORLDS[name]


def tasks() -> dict[str, Offline]:
    """The worlds of this file by their names."""
    return offline(WORLDS, named)
