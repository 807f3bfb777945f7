"""Fails where the package is not what the notebooks export: writes it anew beside and compares."""
from __future__ import annotations

import difflib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def export_to(folder: Path) -> None:
    """The package as `nbdev-export` writes it from the notebooks, in a copy of the project."""
    for name in ("nbs", "transferlit"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / name, folder / name)
    subprocess.run([str(Path(sys.executable).with_name("nbdev-export"))], cwd=folder, check=True, capture_output=True)


def differences(a: Path, b: Path) -> list[str]:
    names = sorted({p.name for folder in (a, b) for p in folder.glob("*.py")})
    texts = [[(f / n).read_text("utf-8").splitlines() if (f / n).exists() else [] for f in (a, b)] for n in names]
    return [line for n, (old, new) in zip(names, texts)
            for line in difflib.unified_diff(old, new, f"committed/{n}", f"exported/{n}", lineterm="")]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        export_to(Path(folder))
        found = differences(ROOT / "transferlit", Path(folder) / "transferlit")
    print("\n".join(found[:80]) if found else "transferlit/ is what the notebooks export")
    if found:
        print("Run `make export` and commit what it writes.")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
