"""Files under ill treatment: rival savers, clocks that jump, links, permissions, pipes, long names and names with control codes."""
import errno
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf

import transferlit as tl
from transferlit.formats import tf_checkpoint as bundles
from transferlit.files import atomic_path, file_hash, locked, printable, readable
from transferlit.formats.reading import open_weights
from transferlit.errors import MissingPart

SUFFIXES = ".keras", ".weights.h5", ".safetensors", ".ckpt"
LONG = "가" * 80  # 240 bytes
DAY = 86_400
RIVAL = """
import sys
from pathlib import Path
import numpy as np
from transferlit.formats import write_arrays
path, value, saves = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
arrays = {f"d{i}/kernel": np.full((32, 32), value, "float32") for i in range(8)}
for _ in range(saves): write_arrays(path, arrays)
"""


def model(value=0.0):
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    for v in made.weights:
        v.assign(np.full(v.shape, value))
    return made


def held(path):
    """The values that a file has, each once."""
    with open_weights(path) as weights:
        return {float(n) for v in weights.of_kind("model").values() for n in np.unique(np.asarray(v))}


def data_of(prefix):
    return sorted(p for p in prefix.parent.iterdir() if p.name.startswith(f"{prefix.name}.data"))


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_rival_savers_and_a_reader(tmp_path):
    """Three processes save to one checkpoint while this one reads: each time one whole checkpoint, and in the end two files."""
    path = tmp_path / "pair.ckpt"
    tl.save(model(1), path)
    rivals = [subprocess.Popen([sys.executable, "-c", RIVAL, str(path), v, "40"]) for v in "123"]
    try:
        seen, until = 0, time.monotonic() + 600
        while any(p.poll() is None for p in rivals) and time.monotonic() < until:
            assert len(held(path)) == 1
            seen += 1
        assert [p.wait(timeout=60) for p in rivals] == [0, 0, 0] and seen > 20
    finally:
        for p in rivals:
            p.kill()
    reader = tf.train.load_checkpoint(str(path))
    assert {float(n) for name in reader.get_variable_to_shape_map() for n in np.unique(reader.get_tensor(name))} == held(path)
    assert [p.name for p in data_of(path)] == list(bundles.data_files(path)), "an index and the data it names"


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_clocks_that_jump(tmp_path, jump):
    path = tmp_path / "c.ckpt"
    for value in range(4):
        tl.save(model(value), path)
        assert held(path) == {value} and len(data_of(path)) == 1
        for p in tmp_path.iterdir():
            os.utime(p, (time.time() + jump, time.time() + jump))


def test_data_keeps_no_name_of_other_content(tmp_path):
    """Two saves of one content may share a name, two of different content never do: a reader has the index of one of them."""
    names = []
    for value in (1, 2, 3, 1, 1):
        tl.save(model(value), tmp_path / "c.ckpt")
        names.append(data_of(tmp_path / "c.ckpt")[0].name)
    assert len(set(names[:3])) == 3 and names[3] == names[0] and names[4] != names[3]


def test_an_open_checkpoint_outlives_the_next_save(tmp_path):
    path = tmp_path / "c.ckpt"
    tl.save(model(1), path)
    with open_weights(path) as weights:
        tl.save(model(2), path)
        assert {float(n) for v in weights.values() for n in np.asarray(v).ravel()} == {1}
    assert held(path) == {2}


def test_data_gone_between_index_and_data(tmp_path, monkeypatch):
    """A reader that comes upon this reads again; where no save came, it says what is missing."""
    path = tmp_path / "c.ckpt"
    tl.save(model(1), path)
    read, saves, busy = bundles._Bundle, [4, 3, 2], []

    def slow(prefix):
        bundle = read(prefix)
        if saves and not busy:
            busy.append(True)
            tl.save(model(saves.pop()), path)
            busy.clear()
        return bundle

    monkeypatch.setattr(bundles, "_Bundle", slow)
    assert held(path) == {4} and not saves
    for p in data_of(path):
        p.unlink()
    with pytest.raises(MissingPart, match=r"Copy 'c.ckpt.data-\d{5}-of-\d{5}'"):
        held(path)


def test_a_failed_save_removes_nothing(tmp_path):
    """What a checkpoint cannot hold leaves the old one, and all beside it, alone."""
    path = tmp_path / "c.ckpt"
    tl.save(model(1), path)
    np.savez(tmp_path / "text.npz", words=np.array(["a", "b"]))
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        tl.convert(tmp_path / "text.npz", path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_permissions_stay(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    tl.save(model(1), path)
    files = [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
    for p in files:
        p.chmod(0o640)
    tl.save(model(2), path)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir() if not p.name.startswith(".")}
    assert len(modes) == len(files) and set(modes.values()) == {0o640} and held(path) == {2}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_links_are_followed(tmp_path, suffix):
    real, link, end = tmp_path / "real" / f"m{suffix}", tmp_path / f"link{suffix}", ".index" if suffix == ".ckpt" else ""
    real.parent.mkdir()
    Path(f"{link}{end}").symlink_to(f"{real}{end}")  # leads nowhere yet
    for value in 1, 2:
        tl.save(model(value), link)
        assert held(link) == held(real) == {value}
        assert visible(tmp_path) == [f"link{suffix}{end}", "real"] and Path(f"{link}{end}").is_symlink()
    assert len(visible(real.parent)) == (2 if end else 1)


def test_an_index_that_leads_elsewhere_is_refused(tmp_path):
    (tmp_path / "blob").write_bytes(b"mine")
    (tmp_path / "m.ckpt.index").symlink_to(tmp_path / "blob")
    with pytest.raises(OSError, match="must lead to another `.index`"):
        tl.save(model(), tmp_path / "m.ckpt")
    assert (tmp_path / "blob").read_bytes() == b"mine" and visible(tmp_path) == ["blob", "m.ckpt.index"]


def _link_to_a_pipe(path):
    os.mkfifo(path.parent / "pipe.index")
    path.symlink_to(path.parent / "pipe.index")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make, said", [(os.mkfifo, "FIFO"), (os.mkdir, "folder"), (_link_to_a_pipe, "FIFO"),
                                        (lambda p: os.symlink(p, p), "link to itself")], ids=["pipe", "folder", "link", "loop"])
def test_what_is_no_file_is_refused(tmp_path, suffix, make, said):
    path = tmp_path / f"m{suffix}"
    target = tmp_path / f"m{suffix}{'.index' if suffix == '.ckpt' else ''}"
    make(target)
    with pytest.raises(OSError, match=said):
        tl.save(model(), path)
    assert not set(p.name for p in tmp_path.iterdir()) - {target.name, "pipe.index"}, "nothing was written"
    if said == "FIFO":
        with pytest.raises((OSError, ValueError), match="not a FIFO|needs its index"):
            tl.peek(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", ".new.safetensors"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_folder_with_a_pipe_in_a_file_s_place_is_not_shared_into(tmp_path, name, make):
    folder = tl.share(model(1), tmp_path / "m")
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    with pytest.raises(OSError, match="A destination must be a file"):
        tl.share(model(2), folder)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_a_shared_folder_takes_no_file_from_elsewhere(tmp_path):
    """A configuration whose weights lie beside the folder, with the right fingerprint."""
    mine = tl.save(model(1), tmp_path / "mine.safetensors")
    folder = tl.share(model(2), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"weights": "../mine.safetensors", "sha256": file_hash(mine)}))
    tl.share(model(3), folder)
    assert held(mine) == {1} and float(tl.shared(folder).get_weights()[0].max()) == 3


@pytest.mark.parametrize("change", [{"weights": 3}, {"weights": ".."}, {"weights": ""}, {"sha256": None}, {"sha256": [1]}, {"architecture": 3},
                                    {"architecture": None}, {"architecture": {"config": []}}, "[" * 100_000, "null"])
def test_a_damaged_configuration_is_refused_in_words(tmp_path, change):
    folder = tl.share(model(1), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(change if isinstance(change, str) else json.dumps(config | change))
    with pytest.raises(ValueError, match="Received: "):
        tl.shared(folder)
    assert float(tl.shared(tl.share(model(2), folder)).get_weights()[0].max()) == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_long_names(tmp_path, suffix):
    path = tmp_path / f"{LONG}{suffix}"
    if suffix == ".ckpt":  # TensorFlow's own name of the data would take 265 bytes
        with pytest.raises(OSError, match="may take 235 bytes.*76 Korean ones.*takes 245"):
            tl.save(model(), path)
        assert not list(tmp_path.iterdir())
        path = tmp_path / f"{'가' * 70}{suffix}"
    for value in 1, 2:
        tl.save(model(value), path)
        assert held(path) == {value}
    with locked(path), pytest.raises(TimeoutError), locked(path, timeout=0):
        pass


def test_a_nul_in_a_path_is_refused_in_words(tmp_path):
    for use in lambda path: tl.save(model(), path), tl.peek, tl.revive, lambda path: tl.restore(model(), path):
        with pytest.raises(ValueError, match="must not hold a NUL"):
            use(f"{tmp_path}/a\0b.keras")


@pytest.mark.parametrize("name", ["a[1].npz", "run*?.npz", "[!x].npz", LONG + ".npz"])
def test_leftovers_of_any_name_are_cleared(tmp_path, name):
    """A killed process leaves its hidden folder; the next save of this name finds it, and those of other names let it be."""
    code = "import os, sys; from transferlit.files import atomic_path\nwith atomic_path(sys.argv[1]) as part: part.write_bytes(b'half'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / name)]).returncode == 9
    left, = tmp_path.iterdir()
    for other in "a1.npz", "run.npz", "run**.npz":
        with atomic_path(tmp_path / other) as part:
            part.write_bytes(b"whole")
    assert left.exists()
    with atomic_path(tmp_path / name) as part:
        part.write_bytes(b"whole")
    assert not left.exists() and (tmp_path / name).read_bytes() == b"whole"


@pytest.mark.parametrize("form", [".keras", ".npz"])
def test_an_archive_is_opened_once(tmp_path, monkeypatch, form):
    """A save between two openings would mix two files; `restore` plans and reads from one opening, too."""
    path = tmp_path / f"m{form}"
    tl.save(model(1), path) if form == ".keras" else np.savez(path, **{"d/kernel": np.ones((4, 3), "float32"), "d/bias": np.ones(3, "float32")})
    opened, plain = [], open

    def counted(file, *args, **kwargs):
        opened.append(str(file))
        return plain(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", counted)
    monkeypatch.setattr("io.open", counted)
    got = model(0)
    tl.restore(got, path)
    assert opened.count(str(path)) == 1 and all((w == 1).all() for w in got.get_weights())


EVIL = "a\x1b[31mred\x07\nb\u202e"


def clean(text):
    return not any(c in str(text) for c in "\x1b\x07\u202e")


def test_no_control_codes_come_out(tmp_path):
    path = tmp_path / f"{EVIL}.npz"
    np.savez(path, **{EVIL: np.ones(2), "d/kernel": np.ones((9, 9), "float32")})
    found = tl.peek(path)
    with open_weights(path) as weights:
        assert clean(weights) and EVIL in weights
    plan = tl.plan(model(), path, unused="error")
    assert len(str(found).splitlines()) == 6 and len(plan.problems) == len(str(plan).splitlines()) - 3 - len(plan.rows)
    for shown in found, found._repr_html_(), plan, plan._repr_html_():
        assert clean(shown) and "\\x1b" in str(shown)
    assert all(map(clean, plan.problems))
    assert found[0]["path"] == EVIL, "as data the name is as it is"
    for failing in (lambda: tl.restore(model(), path, unused="error"), lambda: tl.plan(model(), path, skip="nothing"),
                    lambda: tl.plan(model(), path, rename=("x", "y")), lambda: readable(tmp_path / "none.npz")):
        with pytest.raises((ValueError, OSError)) as error:
            failing()
        assert clean(error.value) and "\\x1b" in str(error.value)


def test_damage_is_told_without_control_codes(tmp_path):
    (tmp_path / f"{EVIL}.ckpt.data-00000-of-00001").write_bytes(b"x")
    with pytest.raises(MissingPart) as error:
        tl.peek(tmp_path / f"{EVIL}.ckpt")
    assert clean(error.value) and "\\x1b" in str(error.value) and "\n" not in str(error.value)


def test_printable_keeps_what_people_write():
    for text in "은닉층 1/kernel", "café", "全角\u3000空白", "":
        assert printable(text) == text
    assert printable("\udc80\x9b\t") == "\\udc80\\x9b\\t"


def test_a_revived_model_prints_no_control_codes(tmp_path):
    made = model()
    made.save(tmp_path / "m.h5")
    os.rename(tmp_path / "m.h5", tmp_path / f"{EVIL}.h5")
    old = tl.revive(tmp_path / f"{EVIL}.h5")
    for shown in repr(old), old._repr_html_():
        assert clean(shown) and "\\x1b" in shown


def refusing(error, real, when=lambda *given: True):
    """A call of the system that says no."""
    def call(*given, **more):
        if when(*given):
            raise OSError(error, os.strerror(error))
        return real(*given, **more)
    return call


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_system_without_sync_and_permissions_serves(tmp_path, monkeypatch, suffix):
    """As those of networks and USB sticks are: what cannot be asked for is left."""
    path = tmp_path / f"m{suffix}"
    tl.save(model(1), path)
    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL, os.fsync))
    monkeypatch.setattr(os, "chmod", refusing(errno.EPERM, os.chmod))
    tl.save(model(2), path)
    assert held(path) == {2}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [errno.EBUSY, errno.ESTALE, errno.EIO])
def test_a_file_that_keeps_its_place_is_said(tmp_path, monkeypatch, suffix, error):
    """Mounted by itself, as containers have it, or gone on a server; the old one is as it was, and nothing is left."""
    path = tmp_path / f"m{suffix}"
    tl.save(model(1), path)
    before = sorted(p.name for p in tmp_path.iterdir())
    monkeypatch.setattr(os, "replace", refusing(error, os.replace))
    with pytest.raises(OSError, match="take the place of the old one.*Choose another.*Received"):
        tl.save(model(2), path)
    assert held(path) == {1} and sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_lets_one_in_at_a_time(tmp_path, monkeypatch, error):
    fcntl = pytest.importorskip("fcntl")
    with locked(tmp_path / "m"):
        pass
    monkeypatch.setattr(fcntl, "flock", refusing(error, fcntl.flock))
    with locked(tmp_path / "m"):
        with pytest.raises(TimeoutError, match="Another process holds"), locked(tmp_path / "m", timeout=0):
            pass
    with locked(tmp_path / "m", timeout=0):
        tl.save(model(3), tmp_path / "m.ckpt")
    assert held(tmp_path / "m.ckpt") == {3}


def test_a_lock_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    """A shared folder on a disk that is read only."""
    import filelock

    monkeypatch.setattr(filelock.FileLock, "acquire", refusing(errno.EROFS, None))
    with pytest.raises(PermissionError, match="beside what it locks.*Received") as raised:
        tl.share(model(), tmp_path / "shared")
    assert raised.value.errno == errno.EROFS


def test_half_a_letter_in_a_path_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="must be text"):
        tl.save(model(), f"{tmp_path}/\ud800.keras")


def test_a_store_that_cannot_be_a_folder_is_refused_in_words(tmp_path):
    from transferlit.features import precompute

    (tmp_path / "file").touch()
    for place in tmp_path / "file" / "store", tmp_path / ("s" * 300):
        with pytest.raises(OSError, match="must be a folder.*Name another"):
            precompute(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, trainable=False), keras.layers.Dense(2)]), np.ones((9, 4)), store=place, verbose=False)
