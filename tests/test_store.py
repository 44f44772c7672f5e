"""The embedding store: what was written is read, by any process, after any crash, or an error says why not.

Other processes import the store without the rest of the package, so that they start in a fifth of a second.
"""

import inspect
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fairl_sk
from fairl_sk.features.store import EmbeddingStore, StoreError, settings_id, text_keys

SETTINGS = {"model": "m", "store_dtype": "float32"}


def vectors(texts, size=8):
    """Vectors that tell their texts, in numbers that float16 holds."""
    first = [int.from_bytes(text.encode(), "big") % 1789 for text in texts]
    return (np.array(first)[:, None] + np.arange(size) % 256).astype(np.float32)


PRELUDE = f"""
import os, sys, time, types
import numpy as np
for name, folder in (("fairl_sk", ""), ("fairl_sk.features", "/features")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [{str(Path(fairl_sk.__file__).parent)!r} + folder]
from fairl_sk.features.store import EmbeddingStore, StoreError, text_keys
SETTINGS = {SETTINGS!r}

{inspect.getsource(vectors)}
"""

# A namespace of its own, in which a folder can be mounted read-only.
UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]
MAY_MOUNT = shutil.which("unshare") and not subprocess.call(
    [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], stderr=subprocess.DEVNULL
)
needs_mount = pytest.mark.skipif(not MAY_MOUNT, reason="mounting in a namespace of one's own is not permitted here")


def start(code, *arguments, read_only=None):
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    if read_only is not None:
        mount = f"mount --bind {read_only} {read_only}; mount -o remount,ro,bind {read_only}"
        command = [*UNSHARE, "sh", "-ec", f'{mount}; exec "$@"', "sh", *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output_of(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store")


def fill(store, n_texts=200, size=8, settings=SETTINGS):
    texts = [f"text {i}" for i in range(n_texts)]
    store.write(settings, text_keys(texts), vectors(texts, size))
    return texts


# --------------------------------------------------------------------------------------- write, read, list, prune


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("size", [1, 5000])
def test_what_was_written_is_read_bit_by_bit(store, rng, dtype, size):
    settings, keys = {"model": "m", "store_dtype": dtype}, text_keys(map(str, range(30)))
    written = rng.normal(size=(30, size)).astype(dtype)
    store.write(settings, keys[:20], written[:20])
    order = rng.permutation(30)
    found, read = EmbeddingStore(store.path).read(settings, [keys[i] for i in order])
    np.testing.assert_array_equal(found, order < 20)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, written[order[order < 20]])


def test_an_empty_store_finds_nothing_and_makes_nothing(store):
    assert not store.exists()
    found, vectors = store.read(SETTINGS, text_keys(["a", "b"]))
    assert found.tolist() == [False, False] and vectors.shape == (0, 0)
    assert store.list() == [] and store.prune([]) == 0 and not store.path.exists()
    fill(store)
    assert store.exists()


def test_what_is_there_stays(store):
    """Readers of a text agree, whoever embedded it once more."""
    keys = text_keys(["a", "b"])
    store.write(SETTINGS, keys[:1], np.ones((1, 4)))
    store.write(SETTINGS, keys, np.full((2, 4), 2.0))
    np.testing.assert_array_equal(store.read(SETTINGS, keys)[1], [[1] * 4, [2] * 4])


def test_keys_tell_texts_apart():
    texts = ["", " ", "a", "A", "\u00e9", "e\u0301", "a\0", "\ud800"]  # accents composed or not, and half a character
    keys = text_keys(texts)
    assert len(set(keys)) == len(texts) and {len(key) for key in keys} == {16}
    assert text_keys(["a"])[0].hex() == "27c35e6e9373877f29e562464e46497e"  # stores of before are still read


def test_settings_keep_apart_what_depends_on_them(store):
    fill(store)
    for other in ({**SETTINGS, "layer": 1}, {**SETTINGS, "model": "n"}, {"model": "m", "store_dtype": "float16"}):
        assert not store.read(other, text_keys(["text 1"]))[0].any()
    assert settings_id({"a": 1, "b": 2, "_note": 3}) == settings_id({"b": 2, "a": 1, "_note": 4})


def test_list_and_prune(store):
    fill(store, 300)
    fill(store, 20, settings={"model": "n", "_name": "a name", "store_dtype": "float16"})
    rows = {row["settings"]["model"]: row for row in store.list()}
    assert {model: row["n_vectors"] for model, row in rows.items()} == {"m": 300, "n": 20}
    assert rows["n"]["settings"]["_name"] == "a name" and rows["n"]["settings"]["created"] <= time.strftime("%Y-%m-%d")
    assert rows["m"]["bytes"] == 300 * 32 and rows["m"]["id"] == settings_id(SETTINGS)
    json.dumps(store.list())
    with pytest.raises(StoreError, match="holds no settings 'unknown'.*" + rows["m"]["id"]):
        store.prune([rows["m"]["id"], "unknown"])
    assert len(store.list()) == 2
    assert store.prune(iter([rows["m"]["id"]])) == 300
    assert [row["n_vectors"] for row in store.list()] == [20]
    assert not store.read(SETTINGS, text_keys(["text 1"]))[0].any()
    assert store.read({"model": "n", "store_dtype": "float16"}, text_keys(["text 1"]))[0].all()
    with pytest.raises(StoreError, match="holds no settings"):
        EmbeddingStore(store.path / "none").prune(["x"])


# ----------------------------------------------------------------------------------------- several at once


def test_processes_that_write_and_read_lose_nothing(store):
    """Six processes, three of them with the same texts; readers meet whole vectors only."""
    writer = """
store, kind = EmbeddingStore(sys.argv[1]), sys.argv[2]
for start in range(0, 400, 20):
    texts = [f"{kind} {i}" for i in range(start, start + 20)]
    store.write(SETTINGS, text_keys(texts), vectors(texts))
    assert store.read(SETTINGS, text_keys(texts))[0].all()
"""
    reader = """
store, texts = EmbeddingStore(sys.argv[1]), [f"{kind} {i}" for kind in "abcd" for i in range(400)]
expected, keys = vectors(texts), text_keys(texts)
deadline, seen = time.monotonic() + 30, -1
while seen < len(texts) and time.monotonic() < deadline:
    found, stored = store.read(SETTINGS, keys)
    assert found.sum() >= seen
    seen = found.sum()
    np.testing.assert_array_equal(stored, expected[found][:, : stored.shape[1]])
assert seen == len(texts), seen
"""
    processes = [start(writer, store.path, kind) for kind in "abcccd"] + [start(reader, store.path)]
    for process in processes:
        output_of(process)
    texts = [f"{kind} {i}" for kind in "abcd" for i in range(400)]
    found, stored = store.read(SETTINGS, text_keys(texts))
    assert found.all()
    np.testing.assert_array_equal(stored, vectors(texts))
    assert [row["n_vectors"] for row in store.list()] == [1600]


def _read_and_write(path, text):
    """In a spawned process: what a stranger sees, and what it leaves."""
    store = EmbeddingStore(path)
    found = store.read(SETTINGS, text_keys(["text 1"]))[0].all()
    store.write(SETTINGS, text_keys([text]), vectors([text]))
    return bool(found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_goes_on_with_the_store(store):
    """While another thread of the parent is in the middle of the store, too."""
    fill(store)
    stop = threading.Event()

    def work():
        number = 0
        while not stop.is_set():
            number += 1
            store.write(SETTINGS, text_keys([f"of the parent {number}"]), vectors(["x"]))
            time.sleep(1e-3)  # lets others have the lock

    thread = threading.Thread(target=work)
    thread.start()
    try:
        context = multiprocessing.get_context("fork")
        for number in range(3):
            child = context.Process(target=_read_and_write, args=(store.path, f"of child {number}"))
            child.start()
            child.join(30)
            assert child.exitcode == 0
    finally:
        stop.set()
        thread.join()
    assert store.read(SETTINGS, text_keys(f"of child {number}" for number in range(3)))[0].all()


# ------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_store_that_was_cut_short_is_refused(store, share):
    fill(store, 2000, 64)
    file = store.path / "embeddings.sqlite"
    os.truncate(file, int(file.stat().st_size * share))
    for operation in (
        lambda: store.read(SETTINGS, text_keys(["text 1"])),
        lambda: fill(store, 10),
        store.list,
        lambda: store.prune([settings_id(SETTINGS)]),
    ):
        with pytest.raises(StoreError, match=f"{store.path}.*damaged.*delete this one"):
            operation()


def test_what_is_no_store_is_refused(tmp_path, store):
    store.path.mkdir()
    (store.path / "embeddings.sqlite").write_bytes(b"something else " * 10_000)
    (tmp_path / "file").write_text("a file")
    for other, message in (
        (store, "no store, or a damaged one.*delete this one"),
        (EmbeddingStore(tmp_path / "file"), "file is a file. Expected a folder"),
    ):
        for operation in (lambda s: s.read(SETTINGS, text_keys(["a"])), EmbeddingStore.list, fill):
            with pytest.raises(StoreError, match=message):
                operation(other)
    assert (store.path / "embeddings.sqlite").read_bytes() == b"something else " * 10_000


def test_vectors_of_different_lengths_are_refused(store):
    store.write(SETTINGS, text_keys(["a"]), np.ones((1, 3)))
    store.write(SETTINGS, text_keys(["b"]), np.ones((1, 4)))
    with pytest.raises(StoreError, match=f"different lengths.*prune settings {settings_id(SETTINGS)}"):
        store.read(SETTINGS, text_keys(["a", "b"]))
    store.prune([settings_id(SETTINGS)])
    fill(store)


# ------------------------------------------------------------------------------------------------- the disk


@needs_mount
def test_a_folder_without_rights_is_read(store):
    fill(store)
    shown = output_of(
        start(
            """
store, keys = EmbeddingStore(sys.argv[1]), text_keys(["text 1"])
print(store.read(SETTINGS, keys)[0].sum(), len(store.list()))
for other in (store, EmbeddingStore(store.path / "new")):
    try:
        other.write(SETTINGS, keys, vectors(["text 1"]))
    except StoreError as error:
        print(error)
""",
            store.path,
            read_only=store.path,
        )
    )
    assert shown.startswith("1 1\n") and shown.count("give rights there") == 2


def test_a_file_that_may_not_grow_ends_a_write_and_nothing_else(store):
    """A limit on the size of files is a full disk that needs no disk."""
    texts = fill(store, 1000)
    size, limits = (store.path / "embeddings.sqlite").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, limits[1]))
    try:
        with pytest.raises(StoreError, match="Make room"):
            store.write(SETTINGS, text_keys(map(str, range(3000))), np.ones((3000, 64)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found, stored = store.read(SETTINGS, text_keys([*texts, "17"]))
    assert found.tolist() == [True] * 1000 + [False]
    np.testing.assert_array_equal(stored, vectors(texts))
    store.write(SETTINGS, text_keys(["17"]), np.ones((1, 8)))
    assert store.read(SETTINGS, text_keys(["17"]))[0].all()
