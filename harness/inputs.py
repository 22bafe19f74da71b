"""Reading what people write: TOML files and their fields, with errors that say what is wrong and where."""

import tomllib
from pathlib import Path
from typing import Any

from vram_ledger.errors import InputError


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables; :class:`InputError` names the file, and the line of a mistake."""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last_line = f"at line {text.count(chr(10)) + 1}, the end"
        raise InputError(f"{path}: {str(error).replace('at end of document', last_line)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


class InputFields:
    """The fields of one table, each read once by the type it must have; ``where`` starts every error."""

    def __init__(self, table: object, where: str) -> None:
        if not isinstance(table, dict):
            raise InputError(f"{where}: expected a table, got {table!r}")
        self._table = table
        self._where = where
        self._read: set[str] = set()

    def _get(self, name: str, default: Any) -> Any:
        self._read.add(name)
        if name in self._table:
            return self._table[name]
        if default is None:
            raise InputError(f"{self._where}: field {name!r} is missing")
        return default

    def text(self, name: str, default: str | None = None) -> str:
        """A non-empty string."""
        return self._checked_text(name, self._get(name, default))

    def texts(self, name: str, default: tuple[str, ...] | None = None, among: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A non-empty list of strings, each one of ``among`` if that is given."""
        values = tuple(self._checked_text(name, v) for v in self._list(name, default))
        for value in values:
            if among and value not in among:
                raise InputError(f"{self._where}: {name} has {value!r}; it takes {', '.join(among)}")
        return values

    def count(self, name: str, most: int, default: int | None = None, least: int = 1) -> int:
        """A whole number from ``least`` to ``most``."""
        return self._checked_count(name, self._get(name, default), least, most)

    def counts(self, name: str, most: int, default: tuple[int, ...] | None = None, least: int = 1) -> tuple[int, ...]:
        """A non-empty list of whole numbers from ``least`` to ``most``."""
        return tuple(self._checked_count(name, v, least, most) for v in self._list(name, default))

    def tables(self, name: str) -> tuple[Any, ...]:
        """A non-empty list of tables."""
        return self._list(name, None)

    def no_others(self) -> None:
        """:class:`InputError` if the table has a field that nobody read: a typing error would pass silently."""
        if others := sorted(set(self._table) - self._read):
            raise InputError(f"{self._where}: unknown field {', '.join(map(repr, others))}")

    def error(self, name: str, reason: str) -> InputError:
        """What to raise where a value of the field is of the right type but can't be meant."""
        return InputError(f"{self._where}: {name}: {reason}")

    def _list(self, name: str, default: Any) -> tuple[Any, ...]:
        value = self._get(name, default)
        if not isinstance(value, list | tuple) or not value:
            raise InputError(f"{self._where}: {name} must be a non-empty list, got {value!r}")
        return tuple(value)

    def _checked_text(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not value:
            raise InputError(f"{self._where}: {name} must be text, got {value!r}")
        return value

    def _checked_count(self, name: str, value: object, least: int, most: int) -> int:
        if type(value) is not int:
            raise InputError(f"{self._where}: {name} must be a whole number, got {value!r}")
        if not least <= value <= most:
            raise InputError(f"{self._where}: {name} must be between {least:,} and {most:,}, got {value:,}")
        return value
