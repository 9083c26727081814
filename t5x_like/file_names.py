"""Names of files that a file from elsewhere contains, such as a manifest: checked before they are used as paths."""

import re

NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


def check_name(name: object, where: object) -> str:
    """Returns `name` if it is a relative path of letters, digits, `_`, `.`, `-` and `/`, without the part `..`.

    Raises:
      ValueError: it is not; `where` is the file that contains the name.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise ValueError(
            f"{where} contains the file name {name!r}; names are relative, of letters, digits, '_', '.', '-' and '/', "
            "without '..': it is damaged or unsafe, so copy it again from a source that you trust"
        )
    return name
