"""Install a Python handler for a test: a module and the entry point that names it."""

from __future__ import annotations

from pathlib import Path


def install(folder: Path, name: str, source: str) -> dict[str, str]:
    """Write the module and its metadata; returns the environment that finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    module = f"{name}_module"
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(f"[superd.handlers]\n{name} = {module}\n")
    root = Path(__file__).resolve().parent.parent
    return {"PYTHONPATH": f"{root}:{folder}"}
