"""The wire format of protocol buffers: just enough to look into an ONNX file without the onnx package.

Parsers of protocol buffers skip fields that they do not know and merge or overwrite fields that come twice, so two of
them can see two different models in one file. This one refuses both, so that what is checked is what will run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dipole_runtime.errors import GuidedPolicyError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int | memoryview]
"""Wire type, and a varint's value or the bytes of anything else."""


class Budget:
    """How much may still be parsed: a small file can hold millions of empty fields.

    :param fields: fields and packed numbers, of all messages together.
    """

    def __init__(self, fields: int) -> None:
        self._limit = self._left = fields

    def spend(self, fields: int) -> None:
        """Counts what is about to be parsed."""
        self._left -= fields
        if self._left < 0:
            raise GuidedPolicyError(f"has more than {self._limit} fields")


class Message:
    """The fields of one message, by name.

    :param data: its bytes; not copied.
    :param kinds: number → name of the fields that it may have; a name that ends with "*" may come repeatedly.
    :param what: the message's name for errors.
    :param budget: of the whole file.
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
        """A varint, 0 when absent; negative numbers as Python has them."""
        return (self.numbers(name) or [0])[0]

    def blob(self, name: str) -> memoryview:
        """Bytes, none when absent."""
        return (self.all(name) or [memoryview(b"")])[0]

    def text(self, name: str) -> str:
        """A string, empty when absent."""
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
        """Numbers of a fixed width (FIXED32 or FIXED64), packed or not, one after the other."""
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
    """The field's bytes; other parsers skip a field of another wire type, as if it were not there."""
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
    """The error for bytes that are no message at all."""
    return GuidedPolicyError("it is not an ONNX model, or a damaged one")
