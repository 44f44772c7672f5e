"""The embedding store: vectors on disk by settings and text; `TransformerEmbedder` and ``fairl-sk store`` use it.

A store is a folder with one LMDB environment: a memory-mapped file that any number of processes read while one writes.
After a crash it holds the last finished write. Each setting has a database of its own, with the hash of a text as key.
"""

import json
import os
import threading
import time
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np

from ..extras import import_extra

__all__ = ["EmbeddingStore", "StoreError", "text_keys"]

_MAP_SIZES = (2**40, 2**33, 2**30)  # addresses for the file; fewer where the process has a limit (ulimit -v)
_LOCK_SIZE = 17 * 4096  # bytes of the lock file for 1024 readers
_SLICE = 512  # keys that are read at once
_SETTINGS = b"settings"  # the database of the settings by id
_LOCK = threading.RLock()  # a process may open an LMDB file once only, and must not be forked meanwhile
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
    Processes may read and write at once, and threads take turns. The folder has to lie on a disk of the machine: LMDB's
    locks do not hold on network file systems such as NFS.

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
        dtype, name = _dtype_of(settings), settings_id(settings)
        values = []
        with self._opened() as environment:
            for start in range(0, len(keys), _SLICE) if environment else ():
                values += self._values(environment, name.encode(), keys[start : start + _SLICE])
        found = np.array([value is not None for value in values or [None] * len(keys)], dtype=bool)
        values = [value for value in values if value is not None]
        sizes = set(map(len, values))
        if len(sizes) > 1 or any(size == 0 or size % dtype.itemsize for size in sizes):
            raise StoreError(
                f"The store {self.path} holds vectors of different lengths for one model. It was damaged, or written "
                f"by something else: prune settings {name}, or name another folder."
            )
        vectors = np.frombuffer(bytearray().join(values), dtype=dtype)
        return found, vectors.reshape(len(values), -1 if values else 0)

    def _values(self, environment, name, keys):
        """The values of keys, None for those that are not there.

        A reader without rights holds no lock, and a writer may take its pages in the second write after it began: then
        it reads once more.
        """
        while True:
            values, failure = [None] * len(keys), None
            with environment.begin() as transaction:
                try:
                    database = _open_database(environment, name, transaction)
                    if database is not None:
                        values = [transaction.get(key, db=database) for key in keys]
                except _import_lmdb().Error as error:
                    failure = error
                is_valid = environment.info()["last_txnid"] <= transaction.id() + 1
            if is_valid or not environment.flags()["readonly"]:
                if failure is not None:
                    raise failure
                return values

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
        name = settings_id(settings).encode()
        about = {**settings, "created": time.strftime("%Y-%m-%d", time.gmtime())}
        order = sorted(range(len(keys)), key=keys.__getitem__)  # neighbors share a page
        with self._opened(write=True) as environment, environment.begin(write=True) as transaction:
            description = environment.open_db(_SETTINGS, txn=transaction)
            transaction.put(name, json.dumps(about).encode(), db=description, overwrite=False)
            database = environment.open_db(name, txn=transaction)
            before = transaction.stat(database)
            items = ((keys[i], vectors[i].tobytes()) for i in order)
            transaction.cursor(db=database).putmulti(items, overwrite=False)
            # each key copies at most one leaf, and any branch may be copied; the rest are new pages
            n_copied = min(len(keys), before["leaf_pages"]) + before["branch_pages"]
            self._lengthen(environment, n_copied + _n_pages(transaction.stat(database)) - _n_pages(before))

    def exists(self):
        """Whether there is a store at the path.

        Returns
        -------
        bool
        """
        return (self.path / "data.mdb").exists()

    def list(self):
        """List what is stored.

        Returns
        -------
        rows : list of dict
            One for each setting, oldest first: ``id``, ``n_vectors``, ``bytes`` (of the pages in use) and ``settings``.
        """
        with self._opened() as environment:
            if environment is None:
                return []
            with environment.begin() as transaction:
                rows = _list_rows(environment, transaction)
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
        if not ids:
            return 0
        rows = {row["id"]: row for row in self.list()}
        unknown = [name for name in ids if name not in rows]
        if unknown:
            raise StoreError(f"The store {self.path} holds no settings {unknown[0]!r}. It holds: {sorted(rows)}.")
        with self._opened(write=True) as environment, environment.begin(write=True) as transaction:
            self._lengthen(environment, sum(rows[name]["bytes"] for name in ids) // 2**20)  # the list of free pages
            for name in ids:
                transaction.drop(environment.open_db(name.encode(), txn=transaction))
                transaction.delete(name.encode(), db=environment.open_db(_SETTINGS, txn=transaction))
        return sum(rows[name]["n_vectors"] for name in ids)

    @contextmanager
    def _opened(self, *, write=False):
        """The LMDB environment, while an operation runs; None if there is none to read."""
        with _LOCK, self._explained():
            environment = self._open(write)
            try:
                yield environment
            finally:
                if environment is not None:
                    environment.close()

    def _open(self, write):
        file = self.path / "data.mdb"
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"The store {self.path} is a file. Expected a folder, or a path where one can be made.")
        is_there = file.exists() and file.stat().st_size > 0
        if not is_there and not write:
            return None
        self.path.mkdir(parents=True, exist_ok=True)
        writable = self._is_writable()
        if write and not writable:
            raise StoreError(
                f"The store {self.path} cannot be written: the disk is full or read-only, or the folder is not yours. "
                "Make room, or name another folder."
            )
        environment = self._map(writable)
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if file.stat().st_size < needed:  # reading beyond the end of a mapped file would kill the process
            environment.close()
            raise StoreError(
                f"The store {self.path} was cut short: {file} has {file.stat().st_size} of {needed} bytes. Copy it "
                "again, or delete the folder to start anew."
            )
        return environment

    def _map(self, writable):
        lmdb = _import_lmdb()
        options = {"max_dbs": 4096, "max_readers": 1024, "readahead": False, "meminit": False}
        for size in _MAP_SIZES:
            try:
                return lmdb.open(str(self.path), map_size=size, readonly=not writable, lock=writable, **options)
            except lmdb.MemoryError:
                if size == _MAP_SIZES[-1]:
                    raise

    def _is_writable(self):
        files = [self.path / name for name in ("data.mdb", "lock.mdb") if (self.path / name).exists()]
        if not all(os.access(path, os.W_OK) for path in (self.path, *files)):
            return False
        try:  # LMDB maps the lock file, and would die where a full disk has no room for it
            with open(self.path / "lock.mdb", "ab") as lock:
                if os.fstat(lock.fileno()).st_blocks * 512 < _LOCK_SIZE and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(lock.fileno(), 0, _LOCK_SIZE)
        except OSError:
            return False
        return True

    def _lengthen(self, environment, n_pages):
        """Lengthen the file, by a hole that takes no room, to what it may claim after a write of so many pages.

        LMDB does not write pages that it took and gave back. Without this, a whole file could look like one that was
        cut short.
        """
        n_pages += n_pages // 256 + 64  # for LMDB's own list of pages
        longest = (environment.info()["last_pgno"] + 1 + n_pages) * environment.stat()["psize"]
        with open(self.path / "data.mdb", "r+b") as file:
            if os.fstat(file.fileno()).st_size < longest:
                os.ftruncate(file.fileno(), longest)

    @contextmanager
    def _explained(self):
        """Errors of LMDB and of the disk as `StoreError`, with a remedy."""
        lmdb = _import_lmdb()
        damaged = (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError, lmdb.PageNotFoundError)
        try:
            yield
        except StoreError:
            raise
        except (lmdb.Error, OSError) as error:
            if isinstance(error, damaged):
                remedy = "It is no store, or a damaged one: name another folder, or delete this one to start anew."
            elif isinstance(error, (lmdb.MemoryError, lmdb.MapFullError, lmdb.MapResizedError)):
                remedy = (
                    "The limit on this process's addresses leaves too few for the file: raise it (ulimit -v), or name "
                    "another folder."
                )
            else:
                remedy = "Make room or give rights there, or name another folder; earlier vectors stay."
            raise StoreError(f"Cannot use the store {self.path}: {error}. {remedy}") from error


def settings_id(settings):
    """Sixteen hexadecimal digits that stand for the settings; names that begin with an underscore do not count."""
    counted = {name: value for name, value in settings.items() if not name.startswith("_")}
    return blake2b(json.dumps(counted, sort_keys=True).encode(), digest_size=8).hexdigest()


def _dtype_of(settings):
    return np.dtype(settings.get("store_dtype", "float16"))


def _n_pages(stat):
    return stat["leaf_pages"] + stat["branch_pages"] + stat["overflow_pages"]


def _open_database(environment, name, transaction):
    """The handle of a database, or None where there is none."""
    lmdb = _import_lmdb()
    try:
        return environment.open_db(name, txn=transaction, create=False)
    except (lmdb.NotFoundError, lmdb.ReadonlyError):
        return None


def _list_rows(environment, transaction):
    description = _open_database(environment, _SETTINGS, transaction)
    rows = []
    for name, about in transaction.cursor(db=description) if description else ():
        use = transaction.stat(_open_database(environment, name, transaction))
        rows.append(
            {
                "id": name.decode(),
                "n_vectors": use["entries"],
                "bytes": _n_pages(use) * use["psize"],
                "settings": json.loads(about),
            }
        )
    return rows


def _import_lmdb():
    return import_extra("lmdb", "text", "The embedding store")
