"""The embedding store: vectors on disk by the text they stand for; for readers who want to know what is kept, and how.

A store is a folder that holds one LMDB environment: one memory-mapped file, read by any number of processes while one
writes, whose state after a crash is that of the last finished write. Vectors that were made with the same settings (of
`fairl_sk.features.encoder`) share a database of their own; in it a vector lies under the 128-bit hash of its text.

The environment is open only while an operation runs, and a process runs one at a time: so threads share nothing, and a
forked process inherits nothing.
"""

import errno
import json
import os
import threading
import time
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np

__all__ = ["EmbeddingStore", "StoreError", "text_keys"]

_MAP_SIZE = 2**40  # the largest size of the file; only addresses are set aside
_ROOM = 2**26  # bytes set aside beyond the file where addresses are short, besides what is to be written
_LOCK_SIZE = 17 * 4096  # of the lock file: a thousand readers at once
_SLICE = 512  # keys read before the file is mapped anew: the kernel maps a hundred KiB or more around each
_SETTINGS = b"settings"
_ONE_AT_A_TIME = threading.RLock()  # LMDB wants a file open once a process, and a fork to meet no open one
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_ONE_AT_A_TIME.acquire,
        after_in_parent=_ONE_AT_A_TIME.release,
        after_in_child=_ONE_AT_A_TIME.release,
    )


class StoreError(OSError):
    """A store that cannot be read or written: not a store, cut short, read-only, or on a full disk."""


def text_keys(texts):
    """The keys of texts in a store.

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
        The folder; it is made at the first write.

    Notes
    -----
    Processes may read and write at once: writers wait for each other, readers for nobody; threads of one process take
    turns. A folder that cannot be written, or lies on a full disk, is read as it is. The folder has to lie on a disk of
    the machine: on network file systems, such as NFS, LMDB's locks do not hold, and a store may be damaged.

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
        """Vectors of the keys that are stored.

        Parameters
        ----------
        settings : dict
            What the vectors were made with, as JSON can hold it; ``settings["store_dtype"]`` is their type (float16 by
            default).
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
        found, joined, sizes = np.zeros(len(keys), dtype=bool), bytearray(), set()
        for start in range(0, len(keys), _SLICE):
            values = self._slice(name, keys[start : start + _SLICE])
            found[start : start + _SLICE] = [value is not None for value in values]
            values = [value for value in values if value is not None]
            sizes.update(map(len, values))
            joined += b"".join(values)
        if len(sizes) > 1 or any(size == 0 or size % dtype.itemsize for size in sizes):
            raise StoreError(
                f"The store {self.path} holds vectors of different lengths for one model. It was damaged, or written "
                f"by something else: prune settings {name}, or name another folder."
            )
        return found, np.frombuffer(joined, dtype=dtype).reshape(found.sum(), -1 if joined else 0)

    def _slice(self, name, keys):
        """The values of a few keys, by an environment of their own."""
        with self._opened(create=False) as environment:
            if environment is None:
                return [None] * len(keys)
            # A reader without a lock is safe from the next write only, the one after that takes its pages: be quick.
            step = 1 if environment.flags()["readonly"] else len(keys)
            return [
                value
                for start in range(0, len(keys), step)
                for value in self._values(environment, name, keys[start : start + step])
            ]

    def _values(self, environment, name, keys):
        """The values of keys, None for what is not there."""
        while True:
            values, failure = [None] * len(keys), None
            with environment.begin() as transaction:
                snapshot = transaction.id()
                try:
                    database = self._database(environment, name.encode(), transaction)
                    if database is not None:
                        values = [transaction.get(key, db=database) for key in keys]
                except _import_lmdb().Error as error:
                    failure = error
            if not environment.flags()["readonly"] or environment.info()["last_txnid"] <= snapshot + 1:
                if failure is not None:
                    raise failure
                return values

    def write(self, settings, keys, vectors):
        """Add vectors, all or (after a crash or an error) none of them.

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
            If the folder cannot be written, or the disk is full. What was stored before stays.
        """
        vectors = np.ascontiguousarray(vectors, dtype=_dtype_of(settings))
        name = settings_id(settings).encode()
        about = {**settings, "created": time.strftime("%Y-%m-%d", time.gmtime())}
        order = sorted(range(len(keys)), key=keys.__getitem__)  # neighbours share a page
        room = _ROOM + len(keys) * (2 * vectors[:1].nbytes + 2**14)  # the pages of a key, and those copied for it
        with self._opened(create=True, room=room) as environment:
            self._check_writable(environment)
            with environment.begin(write=True) as transaction:
                description = environment.open_db(_SETTINGS, txn=transaction)
                transaction.put(name, json.dumps(about).encode(), db=description, overwrite=False)
                database = environment.open_db(name, txn=transaction)
                before = transaction.stat(database)
                cursor = transaction.cursor(db=database)
                cursor.putmulti(((keys[i], vectors[i].tobytes()) for i in order), overwrite=False)
                # Each key copies at most one leaf, and any branch may be copied; the rest are new pages.
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
        """What is stored, a row for each of the settings.

        Returns
        -------
        rows : list of dict
            ``id``, ``n_vectors``, ``bytes`` (of the pages in use) and ``settings``, oldest first.
        """
        with self._opened(create=False) as environment:
            if environment is None:
                return []
            with environment.begin() as transaction:
                rows = self._rows(environment, transaction)
        return sorted(rows, key=lambda row: (row["settings"]["created"], row["id"]))

    def _rows(self, environment, transaction):
        description = self._database(environment, _SETTINGS, transaction)
        if description is None:
            return []
        rows = []
        for name, about in transaction.cursor(db=description):
            use = transaction.stat(self._database(environment, name, transaction))
            rows.append(
                {
                    "id": name.decode(),
                    "n_vectors": use["entries"],
                    "bytes": _n_pages(use) * use["psize"],
                    "settings": json.loads(about),
                }
            )
        return rows

    def prune(self, ids):
        """Forget the vectors of some settings; their space is used for new ones, the file keeps its size.

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
            For an id that the store does not hold, or a store that cannot be written; nothing is forgotten then.
        """
        ids = list(dict.fromkeys(ids))
        with self._opened(create=False) as environment:
            if environment is None or not ids:
                self._check_known(ids, {})
                return 0
            self._check_writable(environment)
            with environment.begin(write=True) as transaction:
                rows = {row["id"]: row for row in self._rows(environment, transaction)}
                self._check_known(ids, rows)
                self._lengthen(environment, sum(rows[name]["bytes"] for name in ids) // 2**20)  # the list of free pages
                for name in ids:
                    transaction.drop(self._database(environment, name.encode(), transaction))
                    transaction.delete(name.encode(), db=self._database(environment, _SETTINGS, transaction))
        return sum(rows[name]["n_vectors"] for name in ids)

    def _check_known(self, ids, rows):
        unknown = [name for name in ids if name not in rows]
        if unknown:
            raise StoreError(f"The store {self.path} holds no settings {unknown[0]!r}. It holds: {sorted(rows)}.")

    # --------------------------------------------------------------------------------------------- LMDB

    @contextmanager
    def _opened(self, *, create, room=_ROOM):
        """The LMDB environment, or None where there is none and none is to be made."""
        with _ONE_AT_A_TIME, self._translated():
            environment = self._open(create, room)
            try:
                yield environment
            finally:
                if environment is not None:
                    environment.close()

    def _open(self, create, room):
        file = self.path / "data.mdb"
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"The store {self.path} is a file. Expected a folder, or a path where one can be made.")
        is_there = file.exists() and file.stat().st_size > 0
        if not is_there and not create:
            return None
        self.path.mkdir(parents=True, exist_ok=True)
        writable = self._has_rights() and self._has_lock_file()
        if not is_there and not writable:
            raise self._not_writable()
        try:
            environment = self._map(_MAP_SIZE, writable)
        except _import_lmdb().MemoryError:  # a limit on the addresses of a process
            environment = self._map((file.stat().st_size if is_there else 0) + room, writable)
        try:
            self._check_length(environment)
        except BaseException:
            environment.close()
            raise
        return environment

    def _map(self, size, writable):
        return _import_lmdb().open(
            str(self.path),
            map_size=size,
            max_dbs=4096,
            max_readers=1024,
            readonly=not writable,
            lock=writable,
            readahead=False,
            meminit=False,
        )

    def _has_rights(self):
        files = [file for file in (self.path / "data.mdb", self.path / "lock.mdb") if file.exists()]
        return all(os.access(path, os.W_OK) for path in (self.path, *files))

    def _has_lock_file(self):
        """Whether the lock file has its place on the disk: LMDB maps it, and dies where the disk has no room for it."""
        if not hasattr(os, "posix_fallocate"):
            return True
        try:
            with open(self.path / "lock.mdb", "ab") as file:
                if os.fstat(file.fileno()).st_blocks * 512 < _LOCK_SIZE:
                    os.posix_fallocate(file.fileno(), 0, _LOCK_SIZE)
        except OSError as error:
            return error.errno in (errno.EINVAL, errno.EOPNOTSUPP)  # a file system that cannot say
        return True

    def _check_writable(self, environment):
        if environment.flags()["readonly"]:
            raise self._not_writable()

    def _not_writable(self):
        return StoreError(
            f"The store {self.path} cannot be written: the disk is full or read-only, or the folder is not yours. Make "
            "room, or name another folder."
        )

    def _check_length(self, environment):
        """Reading beyond the end of a mapped file would kill the process: refuse a file that was cut short."""
        file, needed = self.path / "data.mdb", _n_bytes(environment)
        if file.stat().st_size < needed:
            raise StoreError(
                f"The store {self.path} was cut short: {file} has {file.stat().st_size} of {needed} bytes. Copy it "
                "again, or delete the folder to start anew."
            )

    def _lengthen(self, environment, n_pages):
        """Make the file at least as long as it may say after a write that takes so many pages.

        LMDB leaves out pages at the end that a write took and gave back, and a process may die at any point: the file
        is lengthened first, by a hole that takes no room, so that a shorter one is one that was cut.
        """
        n_pages += n_pages // 256 + 64  # what LMDB needs to keep its own books
        longest = _n_bytes(environment) + n_pages * environment.stat()["psize"]
        with open(self.path / "data.mdb", "r+b") as file:
            if os.fstat(file.fileno()).st_size < longest:
                os.ftruncate(file.fileno(), longest)

    def _database(self, environment, name, transaction):
        """The handle of a database, or None where there is none."""
        try:
            return environment.open_db(name, txn=transaction, create=False)
        except (_import_lmdb().NotFoundError, _import_lmdb().ReadonlyError):
            return None

    @contextmanager
    def _translated(self):
        """Errors of LMDB and of the disk as `StoreError`, with a remedy."""
        lmdb = _import_lmdb()
        try:
            yield
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
            raise StoreError(
                f"Cannot use the store {self.path}: {error}. It is no store, or a damaged one: name another folder, or "
                "delete this one to start anew."
            ) from error
        except StoreError:
            raise
        except (lmdb.MemoryError, lmdb.MapFullError, lmdb.MapResizedError) as error:
            raise StoreError(
                f"Cannot use the store {self.path}: {error}. The limit on this process's addresses leaves too few for "
                "the file: raise it (ulimit -v), or name another folder."
            ) from error
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"Cannot use the store {self.path}: {error}. Make room or give rights there, or name another folder; "
                "what was stored before stays."
            ) from error


def settings_id(settings):
    """Sixteen hexadecimal digits that stand for the settings; names that begin with an underscore do not count."""
    counted = {name: value for name, value in settings.items() if not name.startswith("_")}
    return blake2b(json.dumps(counted, sort_keys=True).encode(), digest_size=8).hexdigest()


def _dtype_of(settings):
    return np.dtype(settings.get("store_dtype", "float16"))


def _n_pages(stat):
    return stat["leaf_pages"] + stat["branch_pages"] + stat["overflow_pages"]


def _n_bytes(environment):
    """How long the file says that it is."""
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def _import_lmdb():
    try:
        import lmdb
    except ImportError as error:
        raise ImportError(
            "The embedding store needs lmdb: pip install -c constraints.txt 'fairl-sk[text]', or use store=None."
        ) from error
    return lmdb
