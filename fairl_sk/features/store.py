"""The embedding store: vectors on disk by settings and text; `TransformerEmbedder` and ``fairl-sk store`` use it."""

import json
import os
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np

__all__ = ["EmbeddingStore", "StoreError", "text_keys"]

_TABLES = (
    "CREATE TABLE IF NOT EXISTS settings (id TEXT PRIMARY KEY, about TEXT)",
    "CREATE TABLE IF NOT EXISTS vectors (settings TEXT, key BLOB, vector BLOB, PRIMARY KEY (settings, key))",
)
_SLICE = 500  # keys that are read at once; SQLite limits the parameters of a statement
_SECONDS = 60.0  # to wait while another process writes
_LOCK = threading.RLock()  # a process must not be forked while SQLite has a file open
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class StoreError(OSError):
    """A store that cannot be read or written: not a store, cut short, read-only, or on a full disk."""


def text_keys(texts):
    """Compute the keys of texts in a store.

    Parameters
    ----------
    texts : iterable of str

    Returns
    -------
    keys : list of bytes
        16 bytes each.
    """
    return [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]


class EmbeddingStore:
    """Vectors by settings and text, in a folder.

    Parameters
    ----------
    path : str or path-like
        The folder; the first write makes it.

    Notes
    -----
    The folder holds one SQLite database. Processes and threads may read and write at once: they wait for each other.
    After a crash it holds the last finished write. It has to lie on a disk of the machine: SQLite's locks do not hold
    on network file systems such as NFS.

    Examples
    --------
    >>> import tempfile
    >>> store = EmbeddingStore(tempfile.mkdtemp())
    >>> keys = text_keys(["a", "b"])
    >>> store.write({"model": "m"}, keys[:1], np.ones((1, 3), dtype=np.float16))
    >>> store.read({"model": "m"}, keys)
    (array([ True, False]), array([[1., 1., 1.]], dtype=float16))
    """

    def __init__(self, path):
        self.path = Path(path)

    def read(self, settings, keys):
        """Read vectors.

        Parameters
        ----------
        settings : dict
            What the vectors depend on, as JSON can hold it; ``settings["store_dtype"]`` is their type (float16 by
            default). Names that begin with an underscore do not count.
        keys : list of bytes

        Returns
        -------
        found : ndarray of shape (n_keys,), bool
        vectors : ndarray of shape (n_found, n_features)

        Raises
        ------
        StoreError
            If the folder holds something that is no store, or one that was cut short.
        """
        dtype, name, stored = _dtype_of(settings), settings_id(settings), {}
        with self._opened() as database:
            for start in range(0, len(keys), _SLICE):
                part = keys[start : start + _SLICE]
                marks = ", ".join("?" * len(part))
                query = f"SELECT key, vector FROM vectors WHERE settings = ? AND key IN ({marks})"
                stored.update(database.execute(query, (name, *part)))
        found = np.array([key in stored for key in keys], dtype=bool)
        values = [stored[key] for key in keys if key in stored]
        sizes = set(map(len, values))
        if len(sizes) > 1 or any(size == 0 or size % dtype.itemsize for size in sizes):
            raise StoreError(
                f"The store {self.path} holds vectors of different lengths for one model. It was damaged, or written "
                f"by something else: prune settings {name}, or name another folder."
            )
        vectors = np.frombuffer(bytearray().join(values), dtype=dtype)
        return found, vectors.reshape(len(values), -1 if values else 0)

    def write(self, settings, keys, vectors):
        """Add vectors: all of them, or after a crash or an error none. Keys that are there keep their vectors.

        Parameters
        ----------
        settings : dict
            See `read`.
        keys : list of bytes
        vectors : ndarray of shape (n_keys, n_features)
            Converted to ``settings["store_dtype"]``.

        Raises
        ------
        StoreError
            If the folder cannot be written, or the disk is full. Earlier vectors stay.
        """
        vectors = np.ascontiguousarray(vectors, dtype=_dtype_of(settings))
        name = settings_id(settings)
        about = json.dumps({**settings, "created": time.strftime("%Y-%m-%d", time.gmtime())})
        rows = ((name, key, vector.tobytes()) for key, vector in zip(keys, vectors, strict=True))
        with self._opened(write=True) as database:
            database.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (name, about))
            database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", rows)

    def exists(self):
        """Whether there is a store at the path.

        Returns
        -------
        bool
        """
        return self._file.exists() and self._file.stat().st_size > 0

    def list(self):
        """List what is stored.

        Returns
        -------
        rows : list of dict
            One for each setting, oldest first: ``id``, ``n_vectors``, ``bytes`` (of the vectors) and ``settings``.
        """
        rows = []
        with self._opened() as database:
            for name, about in database.execute("SELECT id, about FROM settings").fetchall():
                size = "SELECT length(vector) FROM vectors WHERE settings = ? LIMIT 1"  # all have the same
                query = f"SELECT count(*), ({size}) FROM vectors WHERE settings = ?"
                n_vectors, n_bytes = database.execute(query, (name, name)).fetchone()
                total = n_vectors * (n_bytes or 0)
                rows.append({"id": name, "n_vectors": n_vectors, "bytes": total, "settings": json.loads(about)})
        return sorted(rows, key=lambda row: (row["settings"]["created"], row["id"]))

    def prune(self, ids):
        """Forget the vectors of some settings. New ones take their space; the file keeps its size.

        Parameters
        ----------
        ids : iterable of str
            As `list` gives them.

        Returns
        -------
        n_vectors : int
            How many were forgotten.

        Raises
        ------
        StoreError
            For an unknown id, or a store that cannot be written; nothing is forgotten then.
        """
        ids = list(dict.fromkeys(ids))
        held = sorted(row["id"] for row in self.list())
        unknown = [name for name in ids if name not in held]
        if unknown:
            raise StoreError(f"The store {self.path} holds no settings {unknown[0]!r}. It holds: {held}.")
        n_vectors = 0
        if ids:
            with self._opened(write=True) as database:
                for name in ids:
                    n_vectors += database.execute("DELETE FROM vectors WHERE settings = ?", (name,)).rowcount
                    database.execute("DELETE FROM settings WHERE id = ?", (name,))
        return n_vectors

    @property
    def _file(self):
        return self.path / "embeddings.sqlite"

    @contextmanager
    def _opened(self, *, write=False):
        """The database, within one transaction; an empty one if there is none to read."""
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"The store {self.path} is a file. Expected a folder, or a path where one can be made.")
        try:
            with _LOCK, closing(self._connect(write)) as database:
                database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                for table in _TABLES:
                    database.execute(table)
                yield database
                database.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, (sqlite3.OperationalError, OSError)):
                remedy = "Make room or give rights there, or name another folder; earlier vectors stay."
            else:
                remedy = "It is no store, or a damaged one: name another folder, or delete this one to start anew."
            raise StoreError(f"Cannot use the store {self.path}: {error}. {remedy}") from error

    def _connect(self, write):
        options = {"timeout": _SECONDS, "isolation_level": None, "uri": True}
        if write:
            self.path.mkdir(parents=True, exist_ok=True)
        elif not self.exists():
            return sqlite3.connect(":memory:", **options)
        return sqlite3.connect(f"{self._file.absolute().as_uri()}?mode={'rwc' if write else 'rw'}", **options)


def settings_id(settings):
    """Sixteen hexadecimal digits that stand for the settings; names that begin with an underscore do not count."""
    counted = {name: value for name, value in settings.items() if not name.startswith("_")}
    return blake2b(json.dumps(counted, sort_keys=True).encode(), digest_size=8).hexdigest()


def _dtype_of(settings):
    return np.dtype(settings.get("store_dtype", "float16"))
