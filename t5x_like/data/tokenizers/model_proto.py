"""SentencePiece models as serialized protobufs: written from the tables of a GGUF file, and with pieces hidden.

The library's own protobuf module needs another package. Field numbers are those of sentencepiece_model.proto.
"""

import struct
from collections.abc import Container, Sequence

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces, and of tokens in GGUF
PIECE = 1 << 3 | 2  # the key of a piece in a ModelProto, whose fields all are messages or texts


def serialize_model(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], ids: dict, prefix: bool, shrink: bool
) -> bytes:
    """A serialized sentencepiece.ModelProto of BPE without normalization; field numbers are those of its .proto.

    `prefix` adds a space before a text; `shrink` removes duplicate spaces.
    """
    pieces = b"".join(
        chunk(1, chunk(1, token.encode()) + key(2, 5) + struct.pack("<f", score) + number(3, kind))
        for token, score, kind in zip(tokens, scores, types, strict=True)
    )
    special = {40: ids["unk"], 41: ids["bos"], 42: ids["eos"], 43: ids["pad"]}
    trainer = number(3, 2) + number(4, len(tokens)) + number(35, BYTE in types)
    trainer += b"".join(number(field, -1 if index is None else index) for field, index in special.items())
    # The library also needs the names of the special pieces.
    names = {45: ids["unk"], 46: ids["bos"], 47: ids["eos"], 48: ids["pad"]}
    trainer += b"".join(chunk(field, tokens[i].encode()) for field, i in names.items() if i is not None)
    normalizer = chunk(1, b"identity") + number(3, prefix) + number(4, shrink) + number(5, True)
    return pieces + chunk(2, trainer) + chunk(3, normalizer)


def varint(value: int) -> bytes:
    """Protobuf's variable-length integer; negative values are 64-bit two's complement."""
    value, output = value % 2**64, bytearray()
    while value > 127:
        output.append(value & 127 | 128)
        value >>= 7
    return bytes([*output, value])


def key(field: int, wire: int) -> bytes:
    """Protobuf's key of a field and its wire type."""
    return varint(field << 3 | wire)


def number(field: int, value: int) -> bytes:
    """A protobuf field that holds an integer."""
    return key(field, 0) + varint(int(value))


def chunk(field: int, content: bytes) -> bytes:
    """A protobuf field that holds bytes."""
    return key(field, 2) + varint(len(content)) + content


def hide_pieces(model: bytes, ids: Container[int]) -> bytes:
    """A serialized ModelProto with the pieces `ids` as control pieces, which match no text."""
    output = bytearray()
    place = pieces = 0
    while place < len(model):
        tag, begin = read_varint(model, place)
        size, begin = read_varint(model, begin)
        end = begin + size
        hidden = tag == PIECE and pieces in ids
        # Of a field that occurs twice the last value counts.
        output += chunk(1, model[begin:end] + number(3, CONTROL)) if hidden else model[place:end]
        pieces += tag == PIECE
        place = end
    return bytes(output)


def read_varint(content: bytes, place: int) -> tuple[int, int]:
    """A variable-length integer and the place after it."""
    value = shift = 0
    while content[place] > 127:
        value, shift, place = value | (content[place] & 127) << shift, shift + 7, place + 1
    return value | content[place] << shift, place + 1
