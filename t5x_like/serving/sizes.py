"""The sizes that are compiled: few, so that little is computed for nothing and little is compiled."""

FACTOR = 4  # between the numbers of rows, and of tokens, that a program reads


def next_size(need: int, first: int, factor: int, most: int | None) -> int:
    """The smallest of first, first * factor, first * factor^2, ... that is at least `need`; at most `most`."""
    size = first
    while size < need:
        size *= factor
    return size if most is None else min(size, most)


def list_sizes(first: int, most: int) -> list[int]:
    """The values of `next_size` with FACTOR."""
    sizes = [next_size(1, first, FACTOR, most)]
    while sizes[-1] < most:
        sizes.append(next_size(sizes[-1] + 1, first, FACTOR, most))
    return sizes


def filled(count: int, most: int) -> int:
    """The size, of `list_sizes(1, most)`, of the program that reads `count` prompts next.

    At most a quarter of its rows are empty. If that is not so of the next size, the one below reads some of the prompts.
    """
    above = next_size(count, 1, FACTOR, most)
    if 4 * count >= 3 * above:
        return above
    return max(size for size in list_sizes(1, most) if size <= count)
