"""`load_prompts`: the prompts in a file of texts or of records, for whoever lets language models answer them."""

from ..messages import to_text
from .files import check_path, open_text, read_table

__all__ = ["load_prompts"]


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
    >>> from fairl_sk.datasets import load_prompts
    >>> _ = Path("prompts.txt").write_text("Is it far?\\nHow do I get there?\\n")
    >>> load_prompts("prompts.txt")
    ['Is it far?', 'How do I get there?']
    """
    path = check_path(path)
    if path.name.lower().removesuffix(".gz").endswith(".txt"):
        with open_text(path, encoding, newline=None) as lines:
            prompts = [line.rstrip("\n") for line in lines if line.strip()][:limit]
        if not prompts:
            raise ValueError(f"{path} holds no prompts. Expected one a line.")
        return prompts
    table = read_table(path, encoding, quoted, limit)
    if column not in table.columns:
        expected = f"a column {column!r}, or a file .txt with a prompt a line"
        raise ValueError(f"{path}: found the columns {list(table.columns)}. Expected {expected}.")
    prompts = table.columns[column]
    for row, prompt in enumerate(prompts):
        if prompt is None or not to_text(prompt, where=table.place(row)).strip():
            raise ValueError(f"{table.place(row)}: the prompt is empty. Drop such records.")
    return prompts
