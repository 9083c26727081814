"""Personal data and secrets, found by pattern and checksum, replaced by the name of their kind.

Patterns are bounded, so that no text makes them slow. Put RedactPII first: then the report's examples hold none either.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from t5x_like.cleaning.steps import Document, Edited

# Of a match: how many of its characters are what is looked for; 0 if none.
Check = Callable[[str], int]


def luhn(digits: str) -> bool:
    """The check digit of cards (ISO/IEC 7812-1): from the right every second digit doubled, digit sums, a multiple of 10."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


SEPARATOR = re.compile(r"[ -]|$")


def card(match: str) -> int:
    """The longest part, up to a space or hyphen, of 13 to 19 digits that begin as a card's (2 to 6) and satisfy Luhn."""
    ends = [found.start() for found in SEPARATOR.finditer(match)]
    return next((end for end in reversed(ends) if card_digits(re.sub(r"\D", "", match[:end]))), 0)


def card_digits(digits: str) -> bool:
    """Whether these are a payment card's."""
    return 13 <= len(digits) <= 19 and digits[0] in "23456" and len(set(digits)) > 1 and luhn(digits)


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


def iban(match: str) -> int:
    """The country's length of characters with a remainder of 1 modulo 97 (ISO 7064), spaces between; the match may go on."""
    length = IBAN_LENGTHS.get(match[:2], 0)
    places = [place for place, character in enumerate(match) if character != " "][:length]
    if not length or len(places) < length:
        return 0
    code = "".join(match[place] for place in places)
    number = int("".join(str(int(character, 36)) for character in code[4:] + code[:4]))
    return (places[-1] + 1) * (number % 97 == 1)


ALLOCATED_V6 = ipaddress.ip_network("2000::/3")  # RFC 4291; 1::2 is a slice


def public_ip(match: str) -> int:
    """A valid address that is reachable from anywhere: documentation, private and loopback ones are nobody's."""
    try:
        address = ipaddress.ip_address(match)
    except ValueError:
        return 0
    return len(match) * (address.is_global and (address.version == 4 or address in ALLOCATED_V6))


def phone(match: str) -> int:
    """7 to 15 digits (E.164), not all the same."""
    digits = re.sub(r"\D", "", match)
    return len(match) * (7 <= len(digits) <= 15 and len(set(digits)) > 1)


@dataclass(frozen=True)
class Kind:
    """One kind of data: `check` verifies a match of `pattern`; texts without a match of `gate`, which is quick, are passed."""

    name: str
    pattern: re.Pattern[str]
    check: Check = len
    gate: re.Pattern[str] | None = None


def kind(name: str, pattern: str, check: Check = len, gate: str = "") -> Kind:
    """With its patterns compiled."""
    return Kind(name, re.compile(pattern), check, re.compile(gate) if gate else None)


# A pattern that begins with a character is searched much faster than one that begins by looking behind: \d(?<!\w.).
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
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s:,-]{0,10000}?-----END [A-Z ]{0,30}PRIVATE KEY-----"
)
MAIL = r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"

# In the order of redaction: what could hold a part that looks like another kind comes first.
KINDS = (
    kind("key", PRIVATE_KEY, gate="PRIVATE KEY-----"),
    kind("key", rf"(?<![A-Za-z0-9])(?:{PLAIN_KEYS})(?![A-Za-z0-9])", gate=KEY_GATE),
    kind("mail", MAIL, gate="@"),
    kind("iban", r"[A-Z](?<!\w.)[A-Z]\d{2}(?: ?[A-Z0-9]){11,30}", iban),
    kind("card", r"\d(?<![\w.-].)(?:[ -]?\d){12,18}(?![\w-])", card),
    kind("ip", r"\d(?<![\w.].)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?!\w|\.\d)", public_ip),
    kind("ip", r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])", public_ip, ":[0-9A-Fa-f]{0,4}:"),
    kind("phone", r"\+(?<![\w+].)[1-9]\d{0,2}(?:[ .-]?(?:\(\d{1,4}\)|\d{1,4})){2,6}(?![\w-])", phone),
    kind("phone", NANP, phone, r"\d{3}[ .-]\d{4}"),
)


@dataclass(frozen=True)
class RedactPII:
    """Replaces mails, phones, addresses, cards, IBANs and keys by `<KIND>`, and counts them.

    Mail, phone and IP as Dolma (arXiv:2402.00159), keys as SantaCoder (arXiv:2301.03988), cards and IBANs by checksum.
    """

    kinds: tuple[Kind, ...] = KINDS

    def __call__(self, document: Document) -> Document | Edited:
        text, counts = redact(document["text"], self.kinds)
        return Edited({**document, "text": text}, counts) if counts else document


def redact(text: str, kinds: tuple[Kind, ...] = KINDS) -> tuple[str, Counter[str]]:
    """(the text with every find replaced, how many of each kind)."""
    counts: Counter[str] = Counter()
    for kind in kinds:
        if kind.gate is None or kind.gate.search(text):
            text = replaced(text, kind, counts)
    return text, counts


def replaced(text: str, kind: Kind, counts: Counter[str]) -> str:
    """One kind."""

    def placeholder(match: re.Match[str]) -> str:
        size = kind.check(match[0])
        if not size:
            return match[0]
        counts[f"pii.{kind.name}"] += 1
        return f"<{kind.name.upper()}>{match[0][size:]}"

    return kind.pattern.sub(placeholder, text)
