"""The wire format of protocol buffers: just enough to check an ONNX file without the onnx package.

Parsers of protocol buffers skip unknown fields, and merge or overwrite fields that occur twice, so two parsers can see
two different models in the same file. This one refuses both cases, so the model that is checked is the model that runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dipole_runtime.errors import GuidedPolicyError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int | memoryview]
"""Wire type, with the value of a varint, or the bytes of any other type."""


class Budget:
    """Limits how much is parsed: a small file can contain millions of empty fields.

    :param fields: number of fields and packed numbers, in all messages together.
    """

    def __init__(self, fields: int) -> None:
        self._limit = self._left = fields

    def spend(self, fields: int) -> None:
        """Counts fields before they are parsed."""
        self._left -= fields
        if self._left < 0:
            raise GuidedPolicyError(f"has more than {self._limit} fields")


class Message:
    """The fields of one message, by name.

    :param data: its bytes; not copied.
    :param kinds: number → name of the fields that it may have; a name that ends with "*" may be repeated.
    :param what: the message's name, for errors.
    :param budget: shared by the whole file.
    """

    def __init__(self, data: memoryview, kinds: Mapping[int, str], what: str, budget: Budget) -> None:
        self._budget = budget
        self._fields: dict[str, list[Field]] = {}
        for number, field in _fields(data):
            budget.spend(1)
            name = kinds.get(number)
            if name is None:
                raise GuidedPolicyError(f"{what} has the field {number}, which bundles do not use")
            values = self._fields.setdefault(name.rstrip("*"), [])
            if values and not name.endswith("*"):
                raise GuidedPolicyError(f"{what} has its {name} twice")
            values.append(field)

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def number(self, name: str) -> int:
        """A varint, 0 if absent; negative numbers are returned as negative integers."""
        return (self.numbers(name) or [0])[0]

    def blob(self, name: str) -> memoryview:
        """Bytes, empty if absent."""
        return (self.all(name) or [memoryview(b"")])[0]

    def text(self, name: str) -> str:
        """A string, empty if absent."""
        return (self.texts(name) or [""])[0]

    def all(self, name: str) -> list[memoryview]:
        """The bytes of every occurrence."""
        return [_expect(field, BYTES) for field in self._fields.get(name, [])]

    def texts(self, name: str) -> list[str]:
        """Every occurrence as a string."""
        return [_text(value) for value in self.all(name)]

    def numbers(self, name: str) -> list[int]:
        """Varints, packed or not."""
        result: list[int] = []
        for kind, value in self._fields.get(name, []):
            if isinstance(value, int):
                result.append(value)
                continue
            packed = _expect((kind, value), BYTES)
            self._budget.spend(len(packed))
            place = 0
            while place < len(packed):
                number, place = _varint(packed, place)
                result.append(number)
        return [value - (1 << 64) if value >> 63 else value for value in result]

    def joined(self, name: str, width: int) -> bytes:
        """Numbers of a fixed width (FIXED32 or FIXED64), packed or not, as concatenated bytes."""
        return b"".join(_expect(field, BYTES, width) for field in self._fields.get(name, []))


def _fields(data: memoryview) -> Iterator[tuple[int, Field]]:
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(data, place)
            yield key >> 3, (kind, value)
            continue
        if kind == BYTES:
            size, place = _varint(data, place)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise malformed()
        if size > end - place:
            raise malformed()
        yield key >> 3, (kind, data[place : place + size])
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
        shift += 7
    raise malformed()


def _expect(field: Field, *kinds: int) -> memoryview:
    """The field's bytes; refuses another wire type, where other parsers would skip the field as if it were absent."""
    kind, value = field
    if kind not in kinds or isinstance(value, int):
        raise malformed()
    return value


def _text(value: memoryview) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise malformed() from error


def malformed() -> GuidedPolicyError:
    """The error for bytes that are not a valid message."""
    return GuidedPolicyError("it is not an ONNX model, or a damaged one")
