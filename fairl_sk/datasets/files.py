"""How records are written: in files .tsv, .csv, .jsonl and .json (also .gz) and .parquet, in tables, in lists of dicts.

Python's csv and json read the files, which pandas would change in silence: it fills short lines, shifts the columns of
long ones, renames or keeps the last of two equal names, and turns texts such as "NA" and "007" into something else.
"""

import csv
import gzip
import json
import zlib
from array import array
from collections.abc import Mapping
from contextlib import closing, contextmanager
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from ..messages import column_names, is_missing

_DELIMITERS = {".tsv": "\t", ".csv": ","}
_SUFFIXES = ".tsv, .csv, .jsonl, .json (each also with .gz) and .parquet"
_NEVER_MISSING = {str, int, bool, list, dict}
_JSON_REMEDY = "Expected one JSON object a line, or one list of objects. Repair or delete it."


class Table(NamedTuple):
    """Records by column, and where each of them stands."""

    name: str  # of the file, or "the table"
    columns: dict  # lists of values by name; None where a record has none
    unit: str
    numbers: array

    def place(self, row):
        """Where a record stands, for an error."""
        return f"{self.name}, {self.unit} {self.numbers[row]}"


def read_table(source, encoding, quoted, limit):
    """The first records of a file, a table or a list of dicts, all if ``limit`` is None.

    A ValueError tells where the source is no table.
    """
    if isinstance(source, (str, PathLike)):
        path = check_path(source)
        name, records = str(path), _read_file(path, encoding, quoted)
    else:
        name, records = "the table", _read_memory(source)
    previous = csv.field_size_limit(2**31 - 1)  # csv's own limit, 131,072 characters, is less than a long text
    try:
        with closing(records):
            table = collect(name, islice(records, limit))
    finally:
        csv.field_size_limit(previous)
    if not table.numbers:
        raise ValueError(f"{name} is empty: it holds no records. Expected at least 2. Write or fetch it again.")
    return table


def collect(name, records):
    """Records (unit, number, dict) as columns; a record without a column has None there."""
    columns, numbers, units = {}, array("q"), {"record"}
    for unit, number, record in records:
        for column, value in record.items():
            if column not in columns:
                columns[column] = [None] * len(numbers)
            is_there = value.__class__ in _NEVER_MISSING or (value.__class__ is float and value == value)
            columns[column].append(value if is_there or not is_missing(value) else None)
        numbers.append(number)
        if len(record) < len(columns):
            for values in columns.values():
                values.extend([None] * (len(numbers) - len(values)))
        units = {unit}
    return Table(name, columns, units.pop(), numbers)


def check_path(path):
    """The path of an existing file; a ValueError for a folder, a FileNotFoundError where there is nothing."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, but expected a file. Pass one of the files in it.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} (looked in {Path.cwd()}). Check the name and the folder.")
    return path


def _read_file(path, encoding, quoted):
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if suffix in _DELIMITERS:
        return _read_separated(path, encoding, _DELIMITERS[suffix], quoted)
    if suffix in (".jsonl", ".json"):
        return _read_json(path, encoding)
    raise ValueError(f"{path} ends in {path.suffix!r}, but the suffixes known are {_SUFFIXES}. Rename the file.")


def _read_memory(source):
    """The records of a table (pandas, polars, pyarrow, ``datasets.Dataset``), or of a list of dicts."""
    if isinstance(source, Mapping):
        found = f"Found {type(source).__name__} with the keys {list(source)}"
        expected = "Expected the path of a file, a table, or a list of dicts"
        raise ValueError(f"{found}. {expected}: pass one of its values, or pandas.DataFrame(it) if these are columns.")
    if hasattr(source, "collect"):  # of polars, not computed yet
        source = source.collect()
    elif hasattr(source, "to_pylist"):
        source = source.to_pylist()
    names = column_names(source)
    if names is not None:
        _check_names(names, "the table")
        columns = [source[name] for name in (source.columns if hasattr(source, "columns") else names)]
        columns = [values.to_list() if hasattr(values, "to_list") else values for values in columns]
        yield from (
            ("row", row, dict(zip(names, values, strict=True))) for row, values in enumerate(zip(*columns, strict=True))
        )
        return
    if not hasattr(source, "__iter__"):
        raise ValueError(f"Found {type(source).__name__}. Expected the path of a file, a table, or a list of dicts.")
    for row, record in enumerate(source):
        if not isinstance(record, Mapping):
            found = f"Found {type(record).__name__} {record!r:.60} in row {row}"
            raise ValueError(f"{found}. Expected a dict for each row, or a table, or the path of a file.")
        yield "row", row, record


def _check_names(names, where):
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"{where}: column names occur twice: {twice} in {list(names)}. Rename the columns.")


@contextmanager
def open_text(path, encoding, newline):
    """A text file behind its byte order mark, to be read line by line."""
    try:
        "".encode(encoding)
    except (LookupError, TypeError) as error:
        raise ValueError(f"encoding is {encoding!r}, which Python does not know. Try 'utf-8' or 'cp1252'.") from error
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rt", encoding=encoding, newline=newline) as file:
            if file.read(1) != "\ufeff":
                file.seek(0)
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged or no gzip file ({error}). Fetch it again, or remove .gz.") from error
    except UnicodeDecodeError as error:
        with opener(path, "rb") as file:
            line = _undecodable_line(file.read(), encoding)
        found = f"{path}, line {line}: the bytes are not {encoding} ({error.reason})"
        raise ValueError(f"{found}. Pass the file's own, for example encoding='cp1252'.") from error


def _undecodable_line(data, encoding):
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        return data.count(b"\n", 0, error.start) + 1


def _read_separated(path, encoding, delimiter, quoted):
    """The records of a file of separated values; a record may span lines."""
    quoting = {"strict": True} if quoted else {"quoting": csv.QUOTE_NONE}
    remedy = (
        "Quote fields that hold a separator or a line break and double the quotation marks in them; "
        f"pass quoted={not quoted} if quotation marks {'are plain characters' if quoted else 'enclose fields'}; if it "
        "is the last line, the file may be cut: fetch it again."
    )
    header, first = None, 1
    try:
        with open_text(path, encoding, newline="") as lines:
            reader = csv.reader(lines, delimiter=delimiter, **quoting)
            for fields in reader:
                line, first = first, reader.line_num + 1
                if header is None and fields:
                    header = fields
                    _check_names(header, f"{path}, line {line}")
                elif fields:
                    if len(fields) != len(header):
                        expected = f"but expected {len(header)} ({', '.join(header)})"
                        raise ValueError(f"{path}, line {line}: found {len(fields)} fields, {expected}. {remedy}")
                    yield "line", line, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {first}: broken record ({error}). {remedy}") from error


def _read_json(path, encoding):
    """The records of JSON Lines, or of one list, whichever the first character announces."""
    with open_text(path, encoding, newline="\n") as lines:
        for unit, number, record in _json_records(path, lines):
            if not isinstance(record, dict):
                found = f"{path}, {unit} {number}: found {type(record).__name__}, not an object"
                raise ValueError(f"{found}. {_JSON_REMEDY}")
            yield unit, number, record


def _json_records(path, lines):
    is_first = True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if is_first and line.lstrip().startswith("["):
            records = _parse_json(path, number, line + lines.read())
            yield from (("record", n, record) for n, record in enumerate(records, 1))
        else:
            yield "line", number, _parse_json(path, number, line)
        is_first = False


def _parse_json(path, first_line, text):
    try:
        record, end = _scan(text, 0)
        if end == len(text) or text[end:].isspace():
            return record
    except (StopIteration, ValueError):
        pass  # again, for the error or behind white space
    try:
        return _decode(text.rstrip())  # a record that is cut at its end is at fault there, not on the next line
    except json.JSONDecodeError as error:
        place = f"{path}, line {first_line + error.lineno - 1}"
        raise ValueError(f"{place}: no JSON ({error.msg}, column {error.colno}). {_JSON_REMEDY}") from error
    except ValueError as error:  # a name that occurs twice
        raise ValueError(f"{path}, line {first_line} or below: {error}") from error


def _unique_keys(items):
    record = dict(items)
    if len(record) < len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice in one object. Rename one of them.")
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)
_decode, _scan = _DECODER.decode, _DECODER.scan_once  # type: ignore[attr-defined]


def _read_parquet(path):
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError('A .parquet file needs pyarrow. Install it: pip install "fairl-sk[parquet]"') from error
    try:
        with ParquetFile(path) as table:
            records = (record for batch in table.iter_batches() for record in batch.to_pylist())
            yield from (("record", number, record) for number, record in enumerate(records, 1))
    except ArrowException as error:
        raise ValueError(f"{path}: no Parquet file ({error}). Write or fetch it again.") from error
