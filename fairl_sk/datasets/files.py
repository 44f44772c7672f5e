"""How a file of records is written: .tsv, .csv, .jsonl and .json, each also with .gz, and .parquet.

Python's csv and json read them, since pandas fills lines that are too short without a word.
"""

import csv
import gzip
import json
import zlib
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

_DELIMITERS = {".tsv": "\t", ".csv": ","}
_SUFFIXES = ".tsv, .csv, .jsonl, .json (each also with .gz) and .parquet"
_JSON_REMEDY = "Expected one JSON object a line, or one list of objects. Repair or delete it."


def check_path(path):
    """The path of an existing file; a ValueError for a folder, a FileNotFoundError where there is nothing."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, but expected a file. Pass one of the files in it.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} (looked in {Path.cwd()}). Check the name and the folder.")
    return path


def read_records(path, encoding, quoted, limit):
    """The first records as (place, dict), all if ``limit`` is None; ValueError for anything that is not a table."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if name.endswith(".parquet"):
        found = _read_parquet(path)
    elif suffix in _DELIMITERS:
        found = _read_table(path, encoding, _DELIMITERS[suffix], quoted)
    elif suffix in (".jsonl", ".json"):
        found = _read_json(path, encoding)
    else:
        raise ValueError(f"{path} ends in {path.suffix!r}, but the suffixes known are {_SUFFIXES}. Rename the file.")
    previous = csv.field_size_limit(2**31 - 1)  # csv's own limit, 131,072 characters, is less than a long text
    try:
        with closing(found):
            records = list(islice(found, limit))
    finally:
        csv.field_size_limit(previous)
    if not records:
        raise ValueError(f"{path} is empty: it holds no records. Expected at least 2. Write or fetch the file again.")
    return records


@contextmanager
def _open_text(path, encoding, newline):
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


def _read_table(path, encoding, delimiter, quoted):
    """The records of a file of separated values; a record may span lines."""
    quoting = {"strict": True} if quoted else {"quoting": csv.QUOTE_NONE}
    remedy = (
        "Quote fields that hold a separator or a line break and double the quotation marks in them; "
        f"pass quoted={not quoted} if quotation marks {'are plain characters' if quoted else 'enclose fields'}; if it "
        "is the last line, the file may be cut: fetch it again."
    )
    header, first = None, 1
    try:
        with _open_text(path, encoding, newline="") as lines:
            reader = csv.reader(lines, delimiter=delimiter, **quoting)
            for fields in reader:
                where, first = f"line {first}", reader.line_num + 1
                if header is None and fields:
                    header = fields
                    if len(set(header)) < len(header):
                        raise ValueError(f"{path}, {where}: column names occur twice in {header}. Rename the columns.")
                elif fields:
                    if len(fields) != len(header):
                        expected = f"but expected {len(header)} ({', '.join(header)})"
                        raise ValueError(f"{path}, {where}: found {len(fields)} fields, {expected}. {remedy}")
                    yield where, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {first}: broken record ({error}). {remedy}") from error


def _read_json(path, encoding):
    """The records of JSON Lines, or of one list, whichever the first character announces."""
    with _open_text(path, encoding, newline="\n") as lines:
        for where, record in _json_records(path, lines):
            if not isinstance(record, dict):
                raise ValueError(f"{path}, {where}: found {type(record).__name__}, not an object. {_JSON_REMEDY}")
            yield where, record


def _json_records(path, lines):
    is_first = True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if is_first and line.lstrip().startswith("["):
            records = _parse_json(path, number, line + lines.read())
            yield from ((f"record {n}", record) for n, record in enumerate(records, 1))
        else:
            yield f"line {number}", _parse_json(path, number, line)
        is_first = False


def _parse_json(path, first_line, text):
    try:
        return json.loads(text.rstrip())  # a record that is cut at its end is at fault there, not on the next line
    except json.JSONDecodeError as error:
        place = f"{path}, line {first_line + error.lineno - 1}"
        raise ValueError(f"{place}: no JSON ({error.msg}, column {error.colno}). {_JSON_REMEDY}") from error


def _read_parquet(path):
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError('A .parquet file needs pyarrow. Install it: pip install "fairl-sk[parquet]"') from error
    try:
        with ParquetFile(path) as table:
            records = (record for batch in table.iter_batches() for record in batch.to_pylist())
            yield from ((f"record {number}", record) for number, record in enumerate(records, 1))
    except ArrowException as error:
        raise ValueError(f"{path}: no Parquet file ({error}). Write or fetch it again.") from error
