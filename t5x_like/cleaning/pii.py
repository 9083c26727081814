"""Finds personal data and secrets by pattern and checksum, and replaces them by the name of their kind.

The time is linear in the length of any text: a pattern has few ways to match at a place, and parts without a limit are disjoint.
Put RedactPII first: then the examples of the report contain none either.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from t5x_like.cleaning.steps import Document, Edited

# The number of characters of a match that are personal data; 0 if none are.
Check = Callable[[str], int]


def is_luhn_valid(digits: str) -> bool:
    """Checks a card's check digit (ISO/IEC 7812-1): every second digit from the right doubled, digit sums, a multiple of 10."""
    doubled = (int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits)))
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


ISSUERS = "23456"  # first digits of payment cards
SEPARATOR = re.compile(r"[ .-]|$")


def check_card(match: str) -> int:
    """The length of the longest prefix, up to a space or hyphen, of 13 to 19 digits that is a card number; 0 if there is none."""
    if match[0] not in ISSUERS:
        return 0
    ends = [separator.start() for separator in SEPARATOR.finditer(match)]
    return next((end for end in reversed(ends) if is_card_number(re.sub(r"\D", "", match[:end]))), 0)


def is_card_number(digits: str) -> bool:
    """Whether 13 to 19 digits begin as a payment card and satisfy Luhn."""
    return 13 <= len(digits) <= 19 and digits[0] in ISSUERS and len(set(digits)) > 1 and is_luhn_valid(digits)


IBAN_LENGTHS = {  # ISO 13616 registry
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "NL", "FO", "GL"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK"), 20),
    **dict.fromkeys(("CH", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("PT",), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("FR", "GR", "IT", "MC", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "CY", "DO", "GT", "HU", "LB", "PL", "BY"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU"), 30),
    **dict.fromkeys(("MT",), 31),
}


def check_iban(match: str) -> int:
    """The length of an IBAN at the start of a match (ISO 7064: remainder 1 modulo 97), with spaces; 0 if there is none."""
    length = IBAN_LENGTHS.get(match[:2], 0)
    positions = [position for position, character in enumerate(match) if character != " "][:length]
    if not length or len(positions) < length:
        return 0
    code = "".join(match[position] for position in positions)
    number = int("".join(str(int(character, 36)) for character in code[4:] + code[:4]))
    return (positions[-1] + 1) * (number % 97 == 1)


ALLOCATED_V6 = ipaddress.ip_network("2000::/3")  # RFC 4291; 1::2 is a slice


def check_public_ip(match: str) -> int:
    """The length of a valid public address; 0 for documentation, private and loopback addresses."""
    try:
        address = ipaddress.ip_address(match)
    except ValueError:
        return 0
    return len(match) * (address.is_global and (address.version == 4 or address in ALLOCATED_V6))


def check_phone(match: str) -> int:
    """The length of the longest prefix of 7 to 15 digits (E.164), not all equal, up to a separator; 0 if there is none."""
    ends = [separator.start() for separator in SEPARATOR.finditer(match)]
    return next((end for end in reversed(ends) if is_phone_number(re.sub(r"\D", "", match[:end]))), 0)


def is_phone_number(digits: str) -> bool:
    """Whether there are 7 to 15 digits, not all equal."""
    return 7 <= len(digits) <= 15 and len(set(digits)) > 1


@dataclass(frozen=True)
class Kind:
    """One kind of data. `check` verifies a match of `pattern`; a text without a match of the fast pattern `gate` is skipped."""

    name: str
    pattern: re.Pattern[str]
    check: Check = len
    gate: re.Pattern[str] | None = None


def make_kind(name: str, pattern: str, check: Check = len, gate: str = "") -> Kind:
    """A Kind with compiled patterns."""
    return Kind(name, re.compile(pattern), check, re.compile(gate) if gate else None)


# A pattern that begins with a character is much faster than one that begins with a lookbehind: \d(?<!\w.).
NANP = r"(?<![\w.+-])(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4}(?![\w-])"
PLAIN_KEYS = (
    r"AKIA[2-7A-Z]{16}|ASIA[2-7A-Z]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{82}"
    r"|glpat-[A-Za-z0-9_-]{20}|xox[abprs]-[A-Za-z0-9-]{10,80}|hf_[A-Za-z]{34}"
    r"|AIza[A-Za-z0-9_-]{35}|[sr]k_live_[A-Za-z0-9]{24,99}|sk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,200}"
    r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,2000}"  # a JSON web token
)
KEY_GATE = r"A[KS]IA[2-7A-Z]|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|hf_[A-Za-z]{34}|AIza|[sr]k_live_|sk-|eyJ"
PRIVATE_KEY = (
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s:,]*+(?:-(?!----)[A-Za-z0-9+/=\s:,]*+)*"
    r"-----END [A-Z ]{0,30}PRIVATE KEY-----"
)
MAIL = r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"

# In the order of redaction: a kind that can contain another comes first.
KINDS = (
    make_kind("key", PRIVATE_KEY, gate="PRIVATE KEY-----"),
    make_kind("key", rf"(?<![A-Za-z0-9])(?:{PLAIN_KEYS})(?![A-Za-z0-9])", gate=KEY_GATE),
    make_kind("mail", MAIL, gate="@"),
    make_kind("iban", r"[A-Z](?<!\w.)[A-Z]\d{2}(?: ?[A-Z0-9]){11,30}", check_iban),
    make_kind("card", r"\d(?<![\w.-].)(?:[ -]?\d){12,18}(?![\w-])", check_card),
    make_kind("ip", r"\d(?<![\w.].)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?!\w|\.\d)", check_public_ip),
    make_kind(
        "ip", r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])", check_public_ip, ":[0-9A-Fa-f]{0,4}:"
    ),
    make_kind("phone", r"\+(?<![\w+].)[1-9]\d*+(?:[ .-]?(?:\(\d{1,4}\)|\d++)){0,6}(?![\w-])", check_phone),
    make_kind("phone", NANP, check_phone, r"\d{3}[ .-]\d{4}"),
)


@dataclass(frozen=True)
class RedactPII:
    """Replaces e-mail addresses, phone numbers, IP addresses, cards, IBANs and keys by `<KIND>`, and counts them.

    Mail, phone and IP as Dolma (arXiv:2402.00159), keys as SantaCoder (arXiv:2301.03988), cards and IBANs by checksum.
    """

    kinds: tuple[Kind, ...] = KINDS

    def __call__(self, document: Document) -> Document | Edited:
        text, counts = redact(document["text"], self.kinds)
        return Edited({**document, "text": text}, counts) if counts else document


def redact(text: str, kinds: tuple[Kind, ...] = KINDS) -> tuple[str, Counter[str]]:
    """Returns (the text with placeholders, the number of replacements by kind)."""
    counts: Counter[str] = Counter()
    for kind in kinds:
        if kind.gate is None or kind.gate.search(text):
            text = replace_kind(text, kind, counts)
    return text, counts


def replace_kind(text: str, kind: Kind, counts: Counter[str]) -> str:
    """Replaces one kind and adds to `counts`."""

    def placeholder(match: re.Match[str]) -> str:
        size = kind.check(match[0])
        if not size:
            return match[0]
        counts[f"pii.{kind.name}"] += 1
        return f"<{kind.name.upper()}>{match[0][size:]}"

    return kind.pattern.sub(placeholder, text)
