"""Stores under ill treatment: killed and rival writers, damaged and swapped files, clocks that are wrong, full disks,
threads and forks; a folder of this machine, and a remote store whose far side is one.

TRANSFERLIT_ROUNDS says how often (3 by default, of each kind; results/20_promises says how often for its figures);
TRANSFERLIT_SEED makes the draws others.
"""
import contextlib
import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import storing
from storing import FIELDS, ROWS, STEP, same, values, write
from transferlit.files import locked
from transferlit.store import Damaged, RemoteStore, local as disk, open_store, remote as far

ROUNDS = int(os.environ.get("TRANSFERLIT_ROUNDS", 3))
SEED = int(os.environ.get("TRANSFERLIT_SEED", 0))
ENV = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
ONE, TWO = "1" * 64, "2" * 64
SHARD = 960  # bytes; of an entry of 300 rows of 24 bytes
linux = pytest.mark.skipif(sys.platform != "linux", reason="uses fork and /proc")
fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'transferlit[remote]'")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(disk.shard_limits, "bytes", SHARD)


@pytest.fixture(params=["local", "remote"])
def store(request, tmp_path):
    return machine(request.param, tmp_path)


def machine(kind, root, cache="cache"):
    """A store, and the folder in which its files really lie."""
    root.joinpath("far").mkdir(exist_ok=True)
    url = {"local": str(root / "far"), "remote": f"file://{root}/far"}[kind]
    made = storing.opened(url, root / cache)
    made.real = root / "far"
    return made


def folder(store, key):
    return store.real / key[:32]


def begin(store, key, rows=ROWS // 2):
    """As a killed writer leaves it."""
    with store.locked(store.place(key)), store.writer(store.place(key), FIELDS) as writer:
        for i in range(0, rows, STEP):
            writer.add([a[i:i + STEP] for a in values(key)])


def swap(store, one=ONE, two=TWO):
    folder(store, one).rename(store.real / "aside")
    folder(store, two).rename(folder(store, one))
    (store.real / "aside").rename(folder(store, two))


def right(store, key):
    """What a reader gets, whatever has happened: nothing, an error that says so, or the rows of this key."""
    try:
        entry = store.read(store.place(key))
        return entry is None or same(entry, key) and entry.rows == ROWS
    except Damaged:
        return True


def right_again(store, key):
    """And what the next writer makes of it."""
    for _ in range(2):  # far away a changed byte shows when it is read
        write(store, key)
        with contextlib.suppress(Damaged):
            return same(store.read(store.place(key)), key)
        store.discard(store.place(key))
    return False


# What an entry says it is

def test_swapped_entries_are_refused(store):
    for key in (ONE, TWO):
        write(store, key)
    swap(store)
    for key in (ONE, TWO):
        with pytest.raises(Damaged, match="of another key"):
            store.read(store.place(key))
        assert right_again(store, key)


def test_an_unfinished_entry_of_another_key_is_not_gone_on_with(store):
    for key in (ONE, TWO):
        begin(store, key)
    assert same(store.read_begun(store.place(ONE)), ONE)
    swap(store)
    assert store.read_begun(store.place(ONE)) is None
    with store.writer(store.place(ONE), FIELDS) as writer:
        assert writer.rows == 0
    assert right_again(store, ONE)


def test_a_shard_of_another_entry_is_not_gone_on_with(tmp_path):
    """As large, of the same kind, with its record."""
    store = machine("local", tmp_path)
    for key in (ONE, TWO):
        begin(store, key)
    for name in ("00001.0.bin", "00001.1.bin", "00001.json"):
        shutil.copy(folder(store, TWO) / name, folder(store, ONE) / name)
    assert store.read_begun(store.place(ONE)).rows == 2 * STEP
    assert right_again(store, ONE)


def test_shards_in_each_other_s_place_are_not_gone_on_with(tmp_path):
    store = machine("local", tmp_path)
    begin(store, ONE)
    for name in ("0.bin", "1.bin", "json"):
        shutil.copy(folder(store, ONE) / f"00002.{name}", folder(store, ONE) / f"00001.{name}")
    assert store.read_begun(store.place(ONE)).rows == 2 * STEP
    assert right_again(store, ONE)


def test_records_of_another_entry_are_no_chain(tmp_path):
    """Far away records point at the one before; their bytes are brought along."""
    store = machine("remote", tmp_path)
    begin(store, TWO)
    folder(store, ONE).mkdir()
    for path in folder(store, TWO).glob("*.*"):
        shutil.copy(path, folder(store, ONE))
    assert store.read_begun(store.place(ONE)) is None
    assert right_again(store, ONE)


def test_pieces_of_another_entry_are_not_joined(store):
    def chunks(key):
        yield FIELDS, [a[:STEP] for a in values(key)], {}
    for key in (ONE, TWO):
        store.pieces(store.place(key)).write("0-20", chunks(key), {"tag": "0-20"})
    assert same(store.pieces(store.place(ONE)).read("0-20"), ONE)
    swap(store)
    assert store.pieces(store.place(ONE)).read("0-20") is None


def test_what_a_newer_version_wrote_is_left_alone_and_told(store):
    write(store, ONE)
    manifest = folder(store, ONE) / "manifest.json"
    manifest.write_text(disk.dump_sealed({**disk.load_sealed(manifest.read_text()), "format": 99, "more": "?"}))
    before = {p.name: p.read_bytes() for p in folder(store, ONE).iterdir() if p.is_file()}
    for call in (store.read, lambda _: write(store, ONE)):
        with pytest.raises(disk.NewerFormat, match="left as it is.*format 99"):
            call(store.place(ONE))
    assert "newer" in store.listing()[0]["state"] and not len(store.prune(keep=0)) and not store.read_abouts()
    assert {p.name: p.read_bytes() for p in folder(store, ONE).iterdir() if p.is_file()} == before


# Files and disks

@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ["00001.0.bin", "00001.json", "manifest.json", "00006.1.bin"])
def test_a_folder_in_a_file_s_place_is_set_aside(tmp_path, name, whole):
    store = machine("local", tmp_path)
    (write if whole else begin)(store, ONE)
    path = folder(store, ONE) / name
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "mine").write_text("precious")
    assert right(store, ONE) and right_again(store, ONE)
    kept, = store.real.rglob("mine")
    assert kept.read_text() == "precious"
    store.discard(store.place(ONE))
    assert not disk.find_entries(store.real)


def link_to_nowhere(path):
    path.symlink_to(path.parent / "nowhere")


@linux
@pytest.mark.parametrize("make", [os.mkfifo, link_to_nowhere, Path.touch])
@pytest.mark.parametrize("name", ["manifest.json", "00001.json", "00001.0.bin", ""])
def test_what_is_no_file_keeps_nobody_waiting(tmp_path, name, make):
    """A FIFO, a link or an empty file, in the place of a file or of the whole entry; `foreign` is somebody's, too."""
    store = machine("local", tmp_path)
    write(store, ONE)
    path = folder(store, ONE) / name
    path.unlink() if name else shutil.rmtree(path)
    make(path)
    (store.real / "foreign").write_text("precious")
    assert right(store, ONE) and right_again(store, ONE) and len(store.listing()) == 1
    assert (store.real / "foreign").read_text() == "precious"


def test_a_manifest_that_says_nothing_is_damaged(tmp_path):
    store = machine("local", tmp_path)
    write(store, ONE)
    path = folder(store, ONE) / "manifest.json"
    path.write_text(disk.dump_sealed({**disk.load_sealed(path.read_bytes()), "about": [1]}))
    with pytest.raises(Damaged, match="says nothing"):
        store.read(store.place(ONE))


def field(name, **more): return dict(name=name, shape=[2], dtype="float32", **more)


RECORD = dict(entry="e", shard=0, rows=1, note={}, fields=[field("a")], bytes=[8], sha256=["0" * 64])


@pytest.mark.parametrize("change", [
    {}, dict(note=[1]), dict(fields=[field(["a"])]), dict(fields=5), dict(fields=[{}]), dict(bytes=[-8]), dict(rows=1 << 70), dict(rows="1"),
    dict(sha256=[0]), dict(sha256=["../" * 20]), dict(sha256=[]), dict(shard="0"), dict(entry=None),
])
def test_a_record_is_of_the_right_kinds(change):
    """Whoever writes a checksum anew can write anything beside it: it is no record, rather than an error somewhere."""
    assert disk.is_record({**RECORD, **change}, "e", 0) == (not change)


def test_a_manifest_without_a_list_is_damaged(tmp_path):
    with pytest.raises(Damaged, match="says nothing"):
        disk.check_manifest(dict(format=disk.FORMAT, entry=tmp_path.name, about={}, shards=5), tmp_path)


def test_a_folder_in_the_place_of_a_lock_is_told(tmp_path):
    (tmp_path / ".a.lock").mkdir()
    with pytest.raises(IsADirectoryError, match="A lock must be a file"), locked(tmp_path / "a"):
        pass


@pytest.mark.parametrize("call", range(0, 24, 3))
def test_a_full_disk_keeps_the_whole_shards(store, call, monkeypatch):
    """In rows, records or the manifest: a named error, and the next run goes on."""
    left, real = [call], os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="fit on its disk|must be reachable"):
        write(store, ONE)
        raise OSError("must be reachable")  # far away fewer files are synced here
    monkeypatch.undo()
    monkeypatch.setattr(disk.shard_limits, "bytes", SHARD)
    assert right(store, ONE)
    begun = store.read_begun(store.place(ONE))
    assert begun is None or same(begun, ONE)
    assert right_again(store, ONE)


def test_a_disk_too_full_for_copies_is_read_past(tmp_path, monkeypatch):
    write(machine("remote", tmp_path), ONE)
    store, truncate = machine("remote", tmp_path, "other"), os.truncate

    def full(path, size):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "truncate", full)
    assert same(store.read(store.place(ONE)), ONE) and not store.cache.nbytes
    monkeypatch.setattr(os, "truncate", truncate)
    get = far.Files.get

    def broken(self, name, path):
        get(self, name, path)
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(far.Files, "get", broken)
    assert same(store.read(store.place(ONE)), ONE) and not store.cache.nbytes


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="to be another user one must be root")
def test_a_store_that_can_only_be_read_is_read():
    root = Path(tempfile.mkdtemp())
    try:
        store = open_store(root)
        write(store, ONE)
        for path in [root, *root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        os.seteuid(65534)
        with store.locked(store.place(ONE)):
            assert same(store.read(store.place(ONE)), ONE)
        assert len(store.listing()) == 1 and store.size() and not len(store.prune(keep=0))
        store.trim()
        for call in (lambda: store.prepare(10), lambda: store.discard(store.place(ONE))):
            with pytest.raises(PermissionError, match="must be writable"):
                call()
        assert same(store.read(store.place(ONE)), ONE)
    finally:
        os.seteuid(0)
        shutil.rmtree(root)


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), os.mkfifo, lambda p: p.symlink_to("/dev/null"),
                                  lambda p: p.symlink_to(p.parent / "nothing" / "here"), lambda p: p.symlink_to(p)])
def test_a_store_is_a_folder_or_nothing_yet(tmp_path, make):
    make(tmp_path / "store")
    with pytest.raises(NotADirectoryError, match="A store must be a folder"):
        open_store(tmp_path / "store")


# Beside a writer

def test_readers_lists_and_pruning_beside_writers_never_raise(store):
    """Threads that write, remove, list and read; a reader gets the rows, or nothing."""
    keys, over, faults = [c * 64 for c in "abcd"], threading.Event(), []

    def loop(call):
        def run():
            rng = random.Random(call.__name__)
            while not over.is_set():
                try:
                    call(rng.choice(keys))
                except Exception as error:
                    faults.append(f"{call.__name__}: {type(error).__name__}: {error}")
        return threading.Thread(target=run)

    def writes(key):
        try:
            write(store, key)
        except (Damaged, OSError) as error:  # removed while it was being written: far away nothing locks
            assert isinstance(store, RemoteStore), error

    def reads(key):
        assert right(store, key)

    def lists(key):
        store.listing()
        store.size()
        store.read_abouts()

    def prunes(key):
        store.prune(keep=1)
        time.sleep(0.01)

    threads = [loop(call) for call in (writes, writes, reads, lists, prunes)]
    for thread in threads:
        thread.start()
    time.sleep(1 + ROUNDS / 10)
    over.set()
    for thread in threads:
        thread.join()
    assert not faults, f"{len(faults)}, the first: {faults[0]}"
    assert all(right_again(store, key) for key in keys)


@linux
def test_a_fork_of_a_process_that_fetches_fetches_too(tmp_path):
    """A thread that held a lock of the cache is not there in the child."""
    write(machine("remote", tmp_path), ONE)
    store = machine("remote", tmp_path, "other")
    entry = store.read(store.place(ONE))
    blob = entry.arrays["v"].parts[0].blob
    store.cache.locks[blob.sha256].acquire()
    store.cache.gate.acquire()
    child = os.fork()
    if not child:
        os._exit(0 if same(entry, ONE) else 1)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child waits for ever")
    assert status == 0


# Rounds

@pytest.fixture
def writers():
    """Starts a writer in a process of its own: started(url, cache, key, seed) gives its process id."""
    server = subprocess.Popen([sys.executable, storing.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV)

    def started(*words):
        server.stdin.write(" ".join(map(str, words)) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())
    yield started
    server.stdin.close()
    server.wait(60)


def runs(pid):
    return Path(f"/proc/{pid}").exists()


def names(folder):
    return {*os.listdir(folder)} if folder.exists() else set()


def kill(pid, how=signal.SIGKILL):
    """True where it came before the end."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + 60
    while runs(pid):
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.001)
    return True


@linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
@pytest.mark.parametrize("kind", ["local", "remote"])
def test_killed_at_any_moment_it_is_whole_or_absent(kind, how, tmp_path, writers):
    """A shard that was whole is never lost, and nothing but rows of this key is ever read."""
    store, rng, kept, killed, whole = machine(kind, tmp_path), random.Random(SEED), 0, 0, 0
    url = f"file://{store.real}" if kind == "remote" else store.real
    for i in itertools.count():
        before = names(folder(store, ONE))
        pid = writers(url, tmp_path / "cache", ONE, i)
        while runs(pid) and names(folder(store, ONE)) == before:
            time.sleep(0.001)  # it begins
        time.sleep(rng.uniform(0, 0.4))
        killed += kill(pid, how)
        entry = store.read(store.place(ONE)) or store.read_begun(store.place(ONE))
        if entry is not None:
            assert same(entry, ONE) and entry.rows >= kept, "a whole shard was lost"
        kept = entry.rows if entry else kept
        if kept == ROWS and store.read(store.place(ONE)):
            whole, kept = whole + 1, 0
            store.discard(store.place(ONE))
        if killed == ROUNDS:
            break
    print(f"{kind}: {killed} of {i + 1} writers met {how.name} at work, {whole} entries became whole, none wrong")
    assert right_again(store, ONE)


DAMAGES = ("flip", "cut", "grow", "delete", "zero", "swap", "foreign", "folder", "other entry", "whole other entry", "clock")


def damage(store, kind, rng):
    """One change, of the kinds that disks, people and programs make."""
    path = rng.choice(sorted(p for p in folder(store, ONE).iterdir() if p.is_file()))
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    if kind == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[at:]
    elif kind == "grow":
        content += b"\0"
    elif kind == "zero":
        content[at:at + 64] = bytes(len(content[at:at + 64]))
    elif kind in ("swap", "other entry"):
        place = folder(store, ONE if kind == "swap" else TWO)
        content = rng.choice(sorted(p for p in place.iterdir() if p.suffix == path.suffix)).read_bytes()
    path.write_bytes(content)
    if kind == "delete":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "foreign":
        (folder(store, ONE) / "99999.0.bin").write_bytes(b"somebody else's")
    elif kind == "whole other entry":
        swap(store)
    elif kind == "clock":
        for p in folder(store, ONE).iterdir():
            when = rng.choice([0, 1, time.time() - 1e7, time.time() + 1e9])
            os.utime(p, (when, when))
    return f"{kind} of {path.name}"


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "unfinished"])
def test_damage_gives_no_wrong_row(store, whole):
    """Read, gone on with, listed, pruned: an error that says so, or the right rows."""
    rng, found = random.Random(SEED), 0
    first = ROUNDS * (2 * isinstance(store, RemoteStore) + whole)  # a short run of the four has each kind once
    for i in range(first, first + ROUNDS):
        for key in (ONE, TWO):
            (write if whole else begin)(store, key)
        said = damage(store, DAMAGES[i % len(DAMAGES)], rng)
        if hasattr(store, "cache"):  # another machine, where nothing was fetched yet
            shutil.rmtree(store.cache.folder, ignore_errors=True)
        assert right(store, ONE), said
        begun = None
        with contextlib.suppress(Damaged):
            begun = store.read_begun(store.place(ONE))
            assert begun is None or same(begun, ONE), said
        found += begun is None or begun.rows < ROWS
        store.listing()
        assert right_again(store, ONE), said
        store.prune(keep=rng.choice([0, 2]))
        for key in (ONE, TWO):
            store.discard(store.place(key))
            shutil.rmtree(folder(store, key), ignore_errors=True)  # what is not the store's own stays
    print(f"{type(store).__name__}, {'whole' if whole else 'unfinished'}: {ROUNDS} damages, no wrong row")


@linux
def test_rivals_leave_one_whole_entry(tmp_path, writers):
    """Two writers of one remote entry, as on two machines, with other shards; one of them is killed now and then, and
    somebody reads meanwhile.
    """
    store, rng, killed, read = machine("remote", tmp_path), random.Random(SEED), 0, 0
    for i in range(ROUNDS):
        pair = [writers(f"file://{store.real}", tmp_path / f"cache{n}", ONE, 2 * i + n) for n in range(2)]
        deadline = time.monotonic() + 120
        victim = time.monotonic() + rng.uniform(0.02, 0.3) if i % 3 == 0 else deadline
        while any(map(runs, pair)) and time.monotonic() < deadline:
            if time.monotonic() > victim:
                killed, victim = killed + kill(pair[rng.randrange(2)]), deadline
            entry = store.read(store.place(ONE))
            read += entry is not None
            assert entry is None or same(entry, ONE)
        assert not any(map(runs, pair)), "a writer waits for ever"
        assert same(store.read(store.place(ONE)), ONE)
        store.discard(store.place(ONE))
    print(f"{ROUNDS} pairs, {killed} killed, {read} reads of a whole entry meanwhile")


@linux
def test_rivals_of_a_folder_write_once(tmp_path, writers):
    """Local writers take turns by a lock, also where clocks jump."""
    store, rng = machine("local", tmp_path), random.Random(SEED)
    for i in range(ROUNDS):
        pair = [writers(store.real, tmp_path, ONE, 2 * i + n) for n in range(2)]
        while any(map(runs, pair)):
            assert right(store, ONE)
            for path in (os.path.join(at, name) for at, _, names in os.walk(store.real) for name in names):
                when = time.time() + rng.choice([-1e8, 1e8])
                with contextlib.suppress(FileNotFoundError):
                    os.utime(path, (when, when))
        assert same(store.read(store.place(ONE)), ONE)
        with locked(store.place(ONE), timeout=0):  # nobody holds it any more
            store.discard(store.place(ONE))
    print(f"{ROUNDS} pairs")
