"""Arithmetic tasks: {"a", "b" or "numbers", "answer", "rationale"}; the rationale writes out every carry."""

import random

from t5x_like.prompting.templates import Template
from t5x_like.tasks.synthetic.sampling import SyntheticTask, TaskGenerator, make_templates, to_tasks

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ida", "Jon", "Kim", "Leo", "Mia")
THINGS = ("apples", "books", "coins", "cards", "pens", "shells", "stones", "stamps")


def draw_number(rng: random.Random, digits: int) -> int:
    """Draws a number of 1 to `digits` digits; every length is equally likely."""
    length = rng.randint(1, digits)
    return rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def last_digits(value: int, count: int) -> list[int]:
    """Returns the last `count` digits, least significant first."""
    return [value // 10**place % 10 for place in range(count)]


def addition_steps(a: int, b: int) -> str:
    """Returns the steps of a column addition, from the right: `8 + 5 = 13, write 3, carry 1.`"""
    steps, carry = [], 0
    columns = max(len(str(a)), len(str(b)))
    for x, y in zip(last_digits(a, columns), last_digits(b, columns), strict=True):
        total = x + y + carry
        sum_of_column = f"{x} + {y} + {carry} = {total}" if carry else f"{x} + {y} = {total}"
        steps.append(f"{sum_of_column}, write {total % 10}, carry {total // 10}.")
        carry = total // 10
    if carry:
        steps.append(f"Write {carry}.")
    return " ".join(steps)


def addition(rng: random.Random) -> dict:
    """Adds two numbers of up to three digits."""
    a, b = draw_number(rng, 3), draw_number(rng, 3)
    return {"a": a, "b": b, "answer": str(a + b), "rationale": f"{addition_steps(a, b)} So {a} + {b} = {a + b}"}


def subtraction_steps(a: int, b: int) -> str:
    """Returns the steps of a column subtraction, from the right: `10 + 3 - 8 = 5, borrow 1.`"""
    steps, borrow = [], 0
    columns = len(str(a))
    for x, y in zip(last_digits(a, columns), last_digits(b, columns), strict=True):
        subtrahend = y + borrow
        short = x < subtrahend
        less = f"{y} - 1" if borrow else f"{y}"
        difference = f"10 + {x} - {less} = {10 + x - subtrahend}" if short else f"{x} - {less} = {x - subtrahend}"
        borrow = int(short)
        steps.append(f"{difference}, borrow {borrow}.")
    return " ".join(steps)


def subtraction(rng: random.Random) -> dict:
    """Subtracts the smaller of two numbers of up to three digits from the larger."""
    b, a = sorted((draw_number(rng, 3), draw_number(rng, 3)))
    return {"a": a, "b": b, "answer": str(a - b), "rationale": f"{subtraction_steps(a, b)} So {a} - {b} = {a - b}"}


def multiplication_steps(a: int, b: int) -> str:
    """Returns the steps of a multiplication by one digit: each digit of `a` times `b`, with its carry."""
    steps, carry = [], 0
    for x in last_digits(a, len(str(a))):
        total = x * b + carry
        product = f"{x} * {b} + {carry} = {total}" if carry else f"{x} * {b} = {total}"
        steps.append(f"{product}, write {total % 10}, carry {total // 10}.")
        carry = total // 10
    if carry:
        steps.append(f"Write {carry}.")
    return " ".join(steps)


def multiplication(rng: random.Random) -> dict:
    """Multiplies a number of up to three digits by one digit."""
    a, b = draw_number(rng, 3), rng.randrange(10)
    return {"a": a, "b": b, "answer": str(a * b), "rationale": f"{multiplication_steps(a, b)} So {a} * {b} = {a * b}"}


def sum_of_several(rng: random.Random) -> dict:
    """Adds three to five numbers of up to two digits; the rationale is the running total."""
    numbers = [draw_number(rng, 2) for _ in range(rng.randint(3, 5))]
    total, steps = numbers[0], []
    for value in numbers[1:]:
        steps.append(f"{total} + {value} = {total + value}")
        total += value
    return {"numbers": numbers, "answer": str(total), "rationale": f"{'. '.join(steps)}. The sum is {total}"}


def larger_number(rng: random.Random) -> dict:
    """Asks for the larger of two numbers."""
    a, b = draw_two_numbers(rng)
    sign = ">" if a > b else "<"
    return {"a": a, "b": b, "answer": str(max(a, b)), "rationale": f"{a} {sign} {b}, so the larger is {max(a, b)}"}


def smaller_number(rng: random.Random) -> dict:
    """Asks for the smaller of two numbers."""
    a, b = draw_two_numbers(rng)
    sign = ">" if a > b else "<"
    return {"a": a, "b": b, "answer": str(min(a, b)), "rationale": f"{a} {sign} {b}, so the smaller is {min(a, b)}"}


def draw_two_numbers(rng: random.Random) -> tuple[int, int]:
    """Draws two different numbers of up to three digits."""
    a = draw_number(rng, 3)
    b = draw_number(rng, 3)
    return (a, b) if a != b else (a, b + 1)


def parity(rng: random.Random) -> dict:
    """Asks whether a number is even or odd."""
    a = draw_number(rng, 3)
    answer = "odd" if a % 2 else "even"
    return {"a": a, "answer": answer, "rationale": f"The last digit of {a} is {a % 10}, so it is {answer}"}


def digit_sum(rng: random.Random) -> dict:
    """Asks for the sum of the digits of a number."""
    a = draw_number(rng, 4)
    total = sum(map(int, str(a)))
    return {"a": a, "answer": str(total), "rationale": f"{' + '.join(str(a))} = {total}"}


def word_problem(rng: random.Random) -> dict:
    """Draws a story about a number of things that someone gets, gives away, or has in equal groups."""
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


def calculation_templates(sign: str, result: str, command: str) -> tuple[Template, ...]:
    """Returns templates of a calculation with two numbers; `result` names its result, `command` asks for it."""
    return make_templates(
        f"{{{{ a }}}} {sign} {{{{ b }}}} =",
        f"What is {{{{ a }}}} {sign} {{{{ b }}}}?",
        f"Write the {result} {{{{ a }}}} and {{{{ b }}}}.",
        f"{command}: {{{{ a }}}}, {{{{ b }}}}",
        f"Calculate {{{{ a }}}} {sign} {{{{ b }}}} and give only the result.",
    )


def comparison_templates(which: str) -> tuple[Template, ...]:
    """Returns templates that ask which of two numbers is `which`: larger or smaller."""
    return make_templates(
        f"Which number is {which}, {{{{ a }}}} or {{{{ b }}}}?",
        f"Write the {which} one of the numbers {{{{ a }}}} and {{{{ b }}}}.",
        f"{{{{ a }}}}, {{{{ b }}}}\nThe {which} number is",
        f"Of {{{{ a }}}} and {{{{ b }}}}, copy the number that is {which}.",
        f"List: {{{{ a }}}}, {{{{ b }}}}\nTask: copy the {which} number.",
        choices="{{ a }}\n{{ b }}",
    )


GENERATORS = {
    "addition": TaskGenerator(
        addition, ("a", "b"), calculation_templates("+", "sum of", "Add these numbers"), "arithmetic"
    ),
    "subtraction": TaskGenerator(
        subtraction,
        ("a", "b"),
        calculation_templates("-", "difference of", "Take the second number from the first"),
        "arithmetic",
    ),
    "multiplication": TaskGenerator(
        multiplication, ("a", "b"), calculation_templates("*", "product of", "Multiply these numbers"), "arithmetic"
    ),
    "sum_of_several": TaskGenerator(
        sum_of_several,
        ("numbers",),
        make_templates(
            "{{ numbers | join(' + ') }} =",
            "What is the sum of {{ numbers | join(', ') }}?",
            "Add these numbers: {{ numbers | join(', ') }}",
            "{{ numbers | join(' ') }}\nAll of them together are",
            "Calculate {{ numbers | join(' + ') }} and give only the result.",
        ),
        "arithmetic",
    ),
    "larger_number": TaskGenerator(larger_number, ("a", "b"), comparison_templates("larger"), "comparison"),
    "smaller_number": TaskGenerator(smaller_number, ("a", "b"), comparison_templates("smaller"), "comparison"),
    "parity": TaskGenerator(
        parity,
        ("a",),
        make_templates(
            "Is {{ a }} even or odd?",
            "{{ a }}: write even or odd.",
            "Decide whether {{ a }} is an odd or an even number.",
            "The number {{ a }} is (even or odd)",
            "Number: {{ a }}\nTask: is it even or odd?",
            choices=("even", "odd"),
        ),
        "digits",
    ),
    "digit_sum": TaskGenerator(
        digit_sum,
        ("a",),
        make_templates(
            "What is the sum of the digits of {{ a }}?",
            "Add the digits of {{ a }}.",
            "{{ a }}\nThe digits add up to",
            "Number: {{ a }}\nTask: add all of its digits.",
            "Take the number {{ a }} apart and add its digits.",
        ),
        "digits",
    ),
    "word_problem": TaskGenerator(
        word_problem,
        ("story",),
        make_templates(
            "{{ story }} How many {{ what }} does {{ who }} have now?",
            "{{ story }}\nHow many {{ what }} are that?",
            "Read and calculate: {{ story }} The number of {{ what }} is",
            "{{ story }} Count the {{ what }} of {{ who }}.",
            "Problem: {{ story }}\nQuestion: how many {{ what }} does {{ who }} have?",
        ),
        "word_problem",
    ),
}


def find_generator(name: str) -> TaskGenerator:
    """Returns a generator of this file by name."""
    return GENERATORS[name]


def make_tasks() -> dict[str, SyntheticTask]:
    """Returns the tasks of this file by name."""
    return to_tasks(GENERATORS, find_generator)
