"""Texts in a collection of Dask: workers embed them into one store, each distinct text once on the whole cluster."""

from functools import partial

import numpy as np
from tqdm.auto import tqdm

from ..cluster import find_client
from .batching import warn_of_empty
from .store import text_keys

__all__ = ["embed_on_cluster"]


def embed_on_cluster(X, read, embed, stored, n_features, *, verbose=False):
    """Embed the texts of a bag, an array or a DataFrame of Dask; a Dask array whose blocks are read from the store.

    Parameters
    ----------
    X : dask.bag.Bag, dask.array.Array or dask.dataframe.DataFrame
    read : callable
        ``read(part)`` gives the texts of a partition as an array of their shape, the distinct ones among them as they
        are stored, their inverse, and the settings by which they are stored.
    embed : callable
        ``embed(part, owned)`` embeds and stores those of the distinct texts that the mask names. It gives the number of
        texts that were cut.
    stored : callable
        ``stored(part)`` gives the embeddings of a partition, from the store.
    n_features : int
    verbose : bool or int, default=False

    Returns
    -------
    embeddings : dask.array.Array of shape (n_samples, n_features) or (n_pairs, 2, n_features)
    n_cut, n_distinct : int
        How many of the distinct texts were cut, and how many there are.

    Warns
    -----
    UserWarning
        If texts are empty.
    """
    client = find_client("A collection of Dask")
    import dask.array  # installed, as there is a client

    delayed = partial(dask.delayed, pure=False)
    parts = _partitions(X)
    found = _compute(
        client, [delayed(_describe)(read, part, number) for number, part in enumerate(parts)], "Reading", verbose
    )
    parts = [part for part, description in zip(parts, found, strict=True) if description is not None]
    if not parts:
        raise ValueError("Found 0 texts in the collection of Dask. Expected at least one.")
    shapes, keys, n_empty, settings = zip(*filter(None, found), strict=True)
    _check_alike(shapes, settings, [number for number, description in enumerate(found) if description is not None])
    warn_of_empty(sum(n_empty))
    _, first = np.unique(np.concatenate(keys), return_index=True)
    owned = np.isin(np.arange(sum(map(len, keys))), first)
    owned = np.split(owned, np.cumsum([len(some) for some in keys])[:-1])
    tasks = [delayed(embed)(part, some) for part, some in zip(parts, owned, strict=True) if some.any()]
    n_cut = sum(_compute(client, tasks, "Embedding", verbose))
    blocks = [
        dask.array.from_delayed(delayed(stored)(part), (*shape, n_features), np.float32)
        for part, shape in zip(parts, shapes, strict=True)
    ]
    return dask.array.concatenate(blocks), n_cut, len(first)


def _partitions(X):
    """The partitions of a collection, as delayed objects."""
    import dask

    if not hasattr(type(X), "to_delayed"):
        raise ValueError(f"Found a Dask {type(X).__name__}. Expected a bag, an array or a DataFrame of texts.")
    if hasattr(type(X), "rechunk"):
        X = X.rechunk({axis: -1 for axis in range(1, X.ndim)})
    return [dask.delayed(_rows)(part) for part in np.ravel(X.to_delayed())]


def _rows(part):
    """A partition as it is read: one of a bag may be an iterator."""
    return part if hasattr(part, "__len__") else list(part)


def _describe(read, part, number):
    """Shape of a partition's texts, keys of the distinct ones, how many are empty, and settings; None without rows."""
    if not len(part):
        return None
    cells = (cell for name in getattr(part, "columns", ()) for cell in part[name] if isinstance(cell, str))
    turned = next((cell for cell in cells if cell.startswith("[{") and "'role':" in cell), None)
    if turned is not None:
        raise ValueError(
            f"A cell of partition {number} looks like messages that Dask turned into text: {turned:.40}... Make the "
            'table after dask.config.set({"dataframe.convert-string": False}).'
        )
    try:
        texts, distinct, _, settings = read(part)
    except ValueError as error:
        error.args = (f"In partition {number} (partitions and rows count from 0): {error}",)
        raise
    n_empty = sum(not text.strip() for text in texts.flat)
    return texts.shape, np.frombuffer(b"".join(text_keys(distinct)), "V16"), n_empty, settings


def _check_alike(shapes, settings, numbers):
    """Refuse partitions that are not of one kind."""
    kinds = [
        ("pairs" if len(shape) > 1 else "single texts") + ("" if some["special_tokens"] else " of messages")
        for shape, some in zip(shapes, settings, strict=True)
    ]
    other = next((place for place, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        raise ValueError(
            f"Found {kinds[0]} in partition {numbers[0]} of the collection, and {kinds[other]} in partition "
            f"{numbers[other]}. Expected one kind: split the collection."
        )


def _compute(client, tasks, name, verbose):
    """Results of tasks in their order; an error or an interrupt cancels the others."""
    futures = client.compute(tasks)
    try:
        with tqdm(total=len(futures), desc=name, unit="partition", disable=not verbose) as bar:
            for future in futures:
                future.add_done_callback(lambda _: bar.update())
            return client.gather(futures)
    except BaseException:
        client.cancel(futures)
        raise
