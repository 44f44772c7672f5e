"""The embedding store: vectors on disk by the text they stand for; for readers who want to know what is kept, and how.

A store is a folder that holds one LMDB environment: one memory-mapped file, read by any number of processes while one
writes, whose state after a crash is that of the last finished write. Vectors that were made with the same settings (of
`fairl_sk.encoder`) share a database of their own; in it a vector lies under the 128-bit hash of its text.
"""

import json
import os
import time
import weakref
from hashlib import blake2b
from pathlib import Path

import numpy as np

__all__ = ["EmbeddingStore", "StoreError", "text_keys"]

_MAP_SIZE = 2**40  # the largest size of the file; only addresses are set aside
_SETTINGS = b"settings"
_OPEN: "weakref.WeakValueDictionary[tuple, _Environment]" = weakref.WeakValueDictionary()


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


class _Environment:
    """An open LMDB environment; LMDB wants one of them a process and file."""

    def __init__(self, lmdb, folder, writable):
        self.writable = writable
        self.lmdb_environment = lmdb.open(
            str(folder),
            map_size=_MAP_SIZE,
            max_dbs=4096,
            max_readers=1024,
            readonly=not writable,
            lock=writable,
            create=writable,
            readahead=False,
            meminit=False,
        )

    def __del__(self):
        if hasattr(self, "lmdb_environment"):
            self.lmdb_environment.close()


class EmbeddingStore:
    """Vectors by settings and text, in a folder.

    Parameters
    ----------
    path : str or path-like
        The folder; it is made at the first write.

    Notes
    -----
    Processes and threads may read and write at once: writers wait for each other, readers for nobody. A store is opened
    anew in each process, also after it was pickled. A folder on a disk that cannot be written is read as it is.

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
        values = self._values(settings, keys)
        found = np.fromiter((value is not None for value in values), dtype=bool, count=len(keys))
        values = [value for value in values if value is not None]
        dtype = _dtype_of(settings)
        if not values:
            return found, np.empty((0, 0), dtype=dtype)
        size = len(values[0])
        if size == 0 or size % dtype.itemsize or any(len(value) != size for value in values):
            raise StoreError(
                f"The store {self.path} holds vectors of different lengths for one model. It was damaged, or written "
                f"by something else: prune settings {settings_id(settings)}, or name another folder."
            )
        return found, np.frombuffer(b"".join(values), dtype=dtype).reshape(len(values), -1)

    def _values(self, settings, keys):
        environment = self._open(create=False)
        if environment is None:
            return [None] * len(keys)
        with self._errors(), environment.lmdb_environment.begin() as transaction:
            database = self._database(environment, settings_id(settings).encode(), transaction, create=False)
            if database is None:
                return [None] * len(keys)
            get = transaction.get
            return [get(key, db=database) for key in keys]

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
        environment = self._open(create=True)
        if not environment.writable:
            raise StoreError(f"The store {self.path} cannot be written: it lies on a read-only disk or is not yours.")
        name = settings_id(settings).encode()
        order = sorted(range(len(keys)), key=keys.__getitem__)  # neighbours share a page
        with self._errors():
            description = self._database(environment, _SETTINGS, None, create=True)
            database = self._database(environment, name, None, create=True)
            with environment.lmdb_environment.begin(write=True) as transaction:
                about = {**settings, "created": time.strftime("%Y-%m-%d", time.gmtime())}
                transaction.put(name, json.dumps(about).encode(), db=description, overwrite=False)
                cursor = transaction.cursor(db=database)
                cursor.putmulti(((keys[i], vectors[i].tobytes()) for i in order), overwrite=False)
            self._fill_up(environment)

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
        environment = self._open(create=False)
        if environment is None:
            return []
        with self._errors():
            return sorted(self._rows(environment), key=lambda row: (row["settings"]["created"], row["id"]))

    def _rows(self, environment):
        with environment.lmdb_environment.begin() as transaction:
            description = self._database(environment, _SETTINGS, transaction, create=False)
            if description is None:
                return
            for name, about in transaction.cursor(db=description):
                database = self._database(environment, name, transaction, create=False)
                use = transaction.stat(database)
                pages = use["leaf_pages"] + use["branch_pages"] + use["overflow_pages"]
                if use["entries"]:
                    yield {
                        "id": name.decode(),
                        "n_vectors": use["entries"],
                        "bytes": pages * use["psize"],
                        "settings": json.loads(about),
                    }

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
        rows = {row["id"]: row["n_vectors"] for row in self.list()}
        unknown = sorted(set(ids) - set(rows))
        if unknown:
            raise StoreError(f"The store {self.path} holds no settings {unknown[0]!r}. It holds: {sorted(rows)}.")
        environment = self._open(create=False)
        if rows and not environment.writable:
            raise StoreError(f"The store {self.path} cannot be written: it lies on a read-only disk or is not yours.")
        for name in ids:
            with self._errors():
                database = self._database(environment, name.encode(), None, create=False)
                with environment.lmdb_environment.begin(write=True) as transaction:
                    transaction.drop(database, delete=False)  # other processes may hold its handle
        return sum(rows[name] for name in ids)

    # --------------------------------------------------------------------------------------------- LMDB

    def _open(self, *, create):
        """The open environment, or None where there is no store and none is to be made."""
        lmdb = _import_lmdb()
        file = self.path / "data.mdb"
        if not file.exists():
            if not create:
                self._refuse_other_folders()
                return None
            self._make_folder()
        identity = (os.getpid(), str(self.path.resolve()), _identity(file))
        environment = _OPEN.get(identity)
        if environment is None:
            writable = os.access(self.path, os.W_OK) and (not file.exists() or os.access(file, os.W_OK))
            with self._errors():
                environment = _Environment(lmdb, self.path, writable)
            self._check_length(environment, file)
            _OPEN[os.getpid(), str(self.path.resolve()), _identity(file)] = environment
        self._environment = environment  # keeps it open as long as this store is used
        return environment

    def _refuse_other_folders(self):
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"The store {self.path} is a file. Expected a folder, or a path where one can be made.")

    def _make_folder(self):
        self._refuse_other_folders()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"Cannot make the store {self.path}: {error.strerror or error}.") from error
        if not os.access(self.path, os.W_OK):
            raise StoreError(f"Cannot make the store {self.path}: the folder cannot be written.")

    def _check_length(self, environment, file):
        """Reading beyond the end of a mapped file would kill the process: refuse a file that was cut short."""
        needed = self._needed_bytes(environment)
        if file.stat().st_size < needed:
            raise StoreError(
                f"The store {self.path} was cut short: {file} has {file.stat().st_size} of {needed} bytes. Copy it "
                "again, or delete the folder to start anew."
            )

    def _needed_bytes(self, environment):
        info = environment.lmdb_environment.info()
        return (info["last_pgno"] + 1) * environment.lmdb_environment.stat()["psize"]

    def _fill_up(self, environment):
        """Make the file as long as it says: pages that were taken and freed in one write are never written."""
        file, needed = self.path / "data.mdb", self._needed_bytes(environment)
        if file.stat().st_size < needed and hasattr(os, "posix_fallocate"):
            with open(file, "r+b") as handle:
                os.posix_fallocate(handle.fileno(), 0, needed)

    def _database(self, environment, name, transaction, *, create):
        """The handle of a database, or None where there is none."""
        lmdb = _import_lmdb()
        try:
            return environment.lmdb_environment.open_db(name, txn=transaction, create=create)
        except (lmdb.NotFoundError, lmdb.ReadonlyError):
            return None

    def _errors(self):
        return _Translated(self.path)

    def __getstate__(self):
        return {"path": self.path}


class _Translated:
    """Errors of LMDB as `StoreError`, with a remedy."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        lmdb = _import_lmdb()
        if not isinstance(error, lmdb.Error):
            return False
        if isinstance(error, (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError)):
            advice = "It is no store, or a damaged one: name another folder, or delete this one to start anew."
        else:
            advice = "Make room, or name another folder; what was stored before stays."
        raise StoreError(f"Cannot use the store {self.path}: {error}. {advice}") from error


def settings_id(settings):
    """Sixteen hexadecimal digits that stand for the settings; names that begin with an underscore do not count."""
    counted = {name: value for name, value in settings.items() if not name.startswith("_")}
    return blake2b(json.dumps(counted, sort_keys=True).encode(), digest_size=8).hexdigest()


def _dtype_of(settings):
    return np.dtype(settings.get("store_dtype", "float16"))


def _identity(file):
    """What tells a file from another one of the same name; None where there is none."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _import_lmdb():
    try:
        import lmdb
    except ImportError as error:
        raise ImportError(
            "The embedding store needs lmdb: pip install -c constraints.txt 'fairl-sk[text]', or use store=None."
        ) from error
    return lmdb
