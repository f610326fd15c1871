"""What the drivers share: interpreters by name, results kept in a JSON file row by row, measured runs, the calibration images."""

import json
import sys
from pathlib import Path
from typing import Any

from harness.data import ROOT
from harness.machine import commit, machine_facts, versions
from harness.measured import Measured, run_measured
from harness.tools import INSTALL, OWN

HERE = Path(__file__).resolve().parents[1]


def chosen_names(given: str | None, default: tuple[str, ...], known: tuple[str, ...], what: str) -> list[str]:
    """Comma-separated names, ``all`` or the default; ends the program at one that is unknown."""
    names = list(known) if given == "all" else list(default) if given is None else [name for name in given.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"Unknown {what}: {', '.join(unknown)}. Known: {', '.join(known)}.")
    return names


def interpreters(given: list[str], peers: tuple[str, ...]) -> dict[str, Path]:
    """This environment's Python and that of each peer: ``NAME=DIR`` in ``given``, else ``.venv-NAME`` in the project."""
    folders = {name: ROOT / f".venv-{name}" for name in peers}
    folders |= {name: Path(folder) for name, _, folder in (text.partition("=") for text in given)}
    return {OWN: Path(sys.executable)} | {name: folder.absolute() / "bin" / "python" for name, folder in folders.items()}


class Store:
    """The results of one benchmark in the JSON file ``out``, begun anew where ``settings`` differ from the stored ones."""

    def __init__(self, out: Path, settings: dict[str, Any], sections: tuple[str, ...], pythons: dict[str, Path], limit: float) -> None:
        self.out, self.sections, self.pythons, self.limit = out, sections, pythons, limit
        self.work = out.parent / "work" / out.stem
        self.work.mkdir(parents=True, exist_ok=True)
        fresh: dict[str, Any] = {"settings": settings} | {section: {} for section in sections}
        stored = json.loads(out.read_text()) if out.is_file() else fresh
        self.results = stored if stored["settings"] == settings else fresh

    def save(self) -> None:
        self.out.write_text(json.dumps(self.results, indent=1) + "\n")

    def describe(self) -> None:
        """Store machine, commit and versions; they describe the newest rows. Rows of another machine keep its facts as their own."""
        found = {name: versions(python) for name, python in self.pythons.items() if python.is_file()}
        now, before = machine_facts(), self.results.get("machine")
        if before is not None and any(before.get(key) != now[key] for key in ("cpu", "cores", "integer_instructions")):
            for row in (row for section in self.sections for row in self.results[section].values() if isinstance(row, dict)):
                row.setdefault("machine", before)
        self.results |= {"machine": now, "commit": commit(ROOT), "versions": found}

    def run(self, python: Path, arguments: list[str], log: str) -> Measured:
        return run_measured([str(python), *arguments], self.work / log, {"PYTHONPATH": f"{HERE}:{ROOT / 'src'}"}, self.limit)

    def module(self, module: str, *arguments: str) -> None:
        """Run a harness module in this environment; end the program with its output if it fails."""
        done = self.run(self.pythons[OWN], ["-m", f"harness.{module}", *arguments], f"{module}.log")
        if done.return_code != 0:
            sys.exit(f"harness.{module} {' '.join(arguments)} failed:\n{done.log_tail}")

    def calibration(self, network: str, samples: int, seed: int) -> Path:
        """The file with the calibration images of ``network``, written the first time."""
        path = self.work / f"calibration.{network}.{samples}.{seed}.npy"
        if not path.is_file():
            self.module("data", "--network", network, "--samples", str(samples), "--seed", str(seed), "--out", str(path))
        return path

    def made_row(self, environment: str, script: str, arguments: list[str], name: str) -> dict[str, Any]:
        """What ``script`` in peers/ wrote to its ``--out``, with the costs of its process; or why there is nothing."""
        if not self.pythons[environment].is_file():
            return {"missing": f"not installed: run {INSTALL[environment]}"}
        made, log = self.work / f"{name}.json", f"{name}.log"
        made.unlink(missing_ok=True)
        done = self.run(self.pythons[environment], ["-m", f"peers.{Path(script).stem}", *arguments, "--out", str(made)], log)
        process = done.as_json() | {"log_tail": ""}
        if done.return_code != 0 or not made.is_file():
            return {"missing": f"failed with {done.return_code}: {done.log_tail.splitlines()[-1:]}; see {log}", "process": process}
        return dict(json.loads(made.read_text())) | {"process": process}


def agreement(predictions: str, exact: str | None) -> float | None:
    """Percent of images on which the float network, whose classes are ``exact``, says the same."""
    if exact is None:
        return None
    return 100.0 * sum(a == b for a, b in zip(predictions, exact, strict=True)) / len(exact)
