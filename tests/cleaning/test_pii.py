"""Personal data planted in prose by kind, and similar text that is not personal data."""

import random
import string

import pytest

from t5x_like.cleaning.pii import RedactPII, is_luhn_valid, redact
from tests.cleaning.growth import is_linear, seconds
from tests.cleaning.planted import document, prose

FOUND = [
    ("mail", "jane.doe+list@mail.example.co.uk"),
    ("mail", "x_1@a-b.org"),
    ("phone", "+44 20 7946 0958"),
    ("phone", "+49 (30) 901820"),
    ("phone", "(212) 555-0142"),
    ("phone", "212-555-0142"),
    ("phone", "1 212 555 0142"),
    ("ip", "8.8.8.8"),
    ("ip", "2606:4700:4700::1111"),
    ("card", "4111 1111 1111 1111"),
    ("card", "5500-0000-0000-0004"),
    ("card", "378282246310005"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432"),
    ("iban", "NO9386011117947"),
    ("key", "AKIAIOSFODNN7EXAMPLE"),
    ("key", "ghp_" + "a1B2" * 9),
    ("key", "sk-proj-" + "Ab3_" * 10),
    ("key", "-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJB\nAKj3=\n-----END RSA PRIVATE KEY-----"),
    ("key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"),
]


@pytest.mark.parametrize(("name", "planted"), FOUND)
@pytest.mark.parametrize("around", ["Here: {} there.", "({})", "{}", "so {}, and", "is\n{}\n", "it is {}."])
def test_personal_data_is_replaced(name, planted, around):
    text, counts = redact(around.format(planted))
    assert text == around.format(f"<{name.upper()}>")
    assert counts == {f"pii.{name}": 1}


@pytest.mark.parametrize(
    "text",
    [
        "jane at example.com, or @jane, or a@b",
        "version 1.2.3.4.5 of 300.1.1.1 and 3.11.7",
        "at home on 127.0.0.1 and 192.168.1.10 and ::1",
        "at 12:30:45 on 2024-01-31",
        "4111 1111 1111 1112 has a wrong check digit",
        "0000 0000 0000 0000",
        "DE88 3704 0044 0532 0130 00 has wrong check digits",
        "XX82WEST12345698765432 is of no country",
        "pages 1200 to 1250, 2001-2002, 3.14159265358979",
        "a C++ std::vector and a Python x[1::2]",
        "the sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "sk-learn is not a key; AKIA neither",
    ],
)
def test_other_text_is_unchanged(text):
    assert redact(text) == (text, {})


def test_a_match_ends_at_its_last_digit():
    assert redact("4111 1111 1111 1111 12/26")[0] == "<CARD> 12/26"
    assert redact("DE89 3704 0044 0532 0130 00 AND MORE")[0] == "<IBAN> AND MORE"


def random_card(rng: random.Random) -> str:
    """A random card number with its check digit."""
    body = "4" + "".join(rng.choices(string.digits, k=14))
    return next(body + digit for digit in string.digits if is_luhn_valid(body + digit))


def test_precision_and_recall_on_planted_data():
    """Random data of every kind in prose is found; of 2000 random 16-digit numbers only the tenth that satisfies Luhn."""
    rng, planted, found = random.Random(0), 0, 0
    for seed in range(50):
        lines = prose(seed).split("\n")
        octets = ".".join(str(rng.randint(11, 99)) for _ in range(4))
        data = (
            f"{lines[0][:5].strip().lower()}{seed}@mail{seed}.org",
            octets,
            random_card(rng),
            f"+1 {rng.randint(200, 999)} {rng.randint(200, 999)} {rng.randint(1000, 9999)}",
            "ghp_" + "".join(rng.choices(string.ascii_letters, k=36)),
        )
        for datum in data:
            planted += 1
            found += redact(f"{lines[1]} {datum} {lines[2]}")[0].count("<") == 1
    assert found == planted == 250
    assert all(redact(prose(seed))[1] == {} for seed in range(50))
    numbers = ["4" + "".join(rng.choices(string.digits, k=15)) for _ in range(2000)]
    taken = sum(bool(redact(number)[1]) for number in numbers)
    assert taken == sum(is_luhn_valid(number) for number in numbers) and 0.07 < taken / 2000 < 0.13


def test_edits_are_counted():
    result = RedactPII()(document("write to a@b.org or c@d.org from 8.8.4.4"))
    assert result.counts == {"pii.mail": 2, "pii.ip": 1}
    assert result.document["text"] == "write to <MAIL> or <MAIL> from <IP>"
    plain = document(prose(0))
    assert RedactPII()(plain) is plain


UNITS = [
    "1",
    "1 ",
    "4 1",
    "a.",
    "a@",
    "a-",
    ":",
    "1:",
    "+1 ",
    "+1(1)",
    "eyJa.",
    "-eyJ",
    "-----BEGIN PRIVATE KEY-----",
    "DE12 ",
    "sk-a",
]


@pytest.mark.parametrize("unit", [*UNITS, f"+{'1' * 29} ", "+12345678901234567890a "])
def test_the_time_is_linear_in_any_text(unit):
    """No unit of text takes quadratic time, or hundreds of times as long as prose."""
    text = unit * (8_000 // len(unit))
    assert is_linear(redact, text)
    plain = prose(0, 90)[: len(text)]
    assert any(seconds(redact, text) < 100 * seconds(redact, plain) for _ in range(3))


def test_a_number_of_too_many_digits_is_cut_at_a_separator():
    assert redact("call +44 20 7946 0958 4567 8901 2345 now")[0] == "call <PHONE> 4567 8901 2345 now"
    assert redact("+12345678901234567890")[0] == "+12345678901234567890"


def test_a_private_key_ends_at_its_own_end():
    begin, end = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
    key = f"{begin}\n{'Ab+/9=' * 4000}\n{end}"
    assert redact(f"a {begin} b\n{key} c")[0] == f"a {begin} b\n<KEY> c"
