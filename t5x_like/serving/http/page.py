"""The page of a server: one file without anything from elsewhere, and a policy that allows nothing else."""

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("page.html").read_bytes()


def source(tag: str) -> str:
    """The hash of the page's one script or style, by which the policy allows it."""
    (content,) = re.findall(rb"<%b>(.*?)</%b>" % (tag.encode(), tag.encode()), PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {source('script')}; style-src {source('style')}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
