"""`load_prompts`, `load_texts`: the prompts, or the texts, in a file of texts or of records."""

from ..messages import to_text
from .files import check_path, open_text, read_table

__all__ = ["load_prompts", "load_texts"]


def load_prompts(path, *, column="prompt", quoted=True, encoding="utf-8", limit=None):
    """Read prompts from a file, in their order; prompts that recur are kept.

    Parameters
    ----------
    path : str or path-like
        A file .txt with a prompt a line (blank lines are skipped), or one of `load_preferences` with a column of
        prompts. Each also with .gz.
    column : str, default="prompt"
        The column of prompts: texts, or lists of messages.
    quoted, encoding, limit
        See `load_preferences`.

    Returns
    -------
    prompts : list of str, or of lists of dict

    Raises
    ------
    FileNotFoundError, ImportError
        See `load_preferences`.
    ValueError
        If the file is broken, in another encoding, has no such column or no prompts, or a prompt is empty.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from fairl_sk.datasets import load_prompts
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "prompts.txt")
    ...     _ = path.write_text("Is it far?\\nHow do I get there?\\n")
    ...     print(load_prompts(path))
    ['Is it far?', 'How do I get there?']
    """
    return _read(path, column, "prompt", quoted, encoding, limit)


def load_texts(path, *, column="text", quoted=True, encoding="utf-8", limit=None):
    """Read texts from a file, in their order; texts that recur are kept.

    Parameters
    ----------
    path, quoted, encoding, limit
        See `load_prompts`.
    column : str, default="text"
        The column of texts: texts, or lists of messages.

    Returns
    -------
    texts : list of str

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        See `load_prompts`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from fairl_sk.datasets import load_texts
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "texts.txt")
    ...     _ = path.write_text("It is far.\\nTurn left.\\n")
    ...     print(load_texts(path))
    ['It is far.', 'Turn left.']
    """
    return [to_text(text) for text in _read(path, column, "text", quoted, encoding, limit)]


def _read(path, column, what, quoted, encoding, limit):
    path = check_path(path)
    if path.name.lower().removesuffix(".gz").endswith(".txt"):
        with open_text(path, encoding, newline=None) as lines:
            texts = [line.rstrip("\n") for line in lines if line.strip()][:limit]
        if not texts:
            raise ValueError(f"{path} holds no {what}s. Expected one a line.")
        return texts
    table = read_table(path, encoding, quoted, limit)
    if column not in table.columns:
        expected = f"a column {column!r}, or a file .txt with a {what} a line"
        raise ValueError(f"{path}: found the columns {list(table.columns)}. Expected {expected}.")
    texts = table.columns[column]
    for row, text in enumerate(texts):
        if text is None or not to_text(text, where=table.place(row)).strip():
            raise ValueError(f"{table.place(row)}: the {what} is empty. Drop such records.")
    return texts
