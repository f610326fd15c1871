"""`import_object` and `call_object`: modules and files, and one sentence for each way in which they can fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from halfstep.errors import DataError, HalfstepError, ModelError
from halfstep.imports import call_object, import_object

SOURCE = """
import beside

class Nets:
    @staticmethod
    def small():
        return beside.VALUE

def late():
    import later_on
    return later_on.VALUE

def broken():
    return 1 / 0

def leaving():
    raise SystemExit(3)

constant = 5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    name = f"beside_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("VALUE = 7")
    (tmp_path / f"later_{name}.py").write_text("VALUE = 8")
    path = tmp_path / "my-net.py"
    path.write_text(SOURCE.replace("beside", name).replace("later_on", f"later_{name}"))
    return path


def test_a_module_of_the_package() -> None:
    assert isinstance(call_object("halfstep.demo.network:digits_network", ModelError), nn.Module)


def test_a_file_sees_its_neighbours_also_while_it_is_called(file: Path) -> None:
    before = list(sys.path)
    assert import_object(f"{file}:Nets.small", ModelError)() == 7
    assert call_object(f"{file}:late", ModelError) == 8
    assert call_object(f"{file}:constant", ModelError) == 5
    assert sys.path == before


def test_a_file_is_loaded_again_only_after_it_changed(file: Path) -> None:
    first = import_object(f"{file}:Nets", ModelError)
    assert import_object(f"{file}:Nets", ModelError) is first
    file.write_text("class Nets: changed = True")
    assert import_object(f"{file}:Nets", ModelError).changed


def test_a_module_in_the_current_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    neighbour = next(path.stem for path in file.parent.glob("later_*.py"))
    assert import_object(f"{neighbour}:VALUE", DataError) == 8
    assert import_object("my-net.py:constant", DataError) == 5


def test_a_file_keeps_its_private_name(file: Path) -> None:
    found = import_object(f"{file}:Nets", ModelError)
    assert found.__module__.startswith("_halfstep_my_net_")
    assert sys.modules[found.__module__].Nets is found


@pytest.mark.parametrize("error", [ModelError, DataError])
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("json", "does not name a Python object"),
        ("json:", "does not name a Python object"),
        (":loads", "does not name a Python object"),
        ("json:load s", "does not name a Python object"),
        ("some folder/net:f", "neither a module nor a .py file"),
        ("jsonn:loads", "no module 'jsonn'"),
        ("json.nothing:loads", "no module 'json.nothing'"),
        ("json:JSONDecodr", "'json' has no 'JSONDecodr'. Did you mean 'JSONDecoder'"),
        ("no/such/net.py:f", "does not exist either"),
    ],
)
def test_specs_that_name_nothing(error: type[HalfstepError], spec: str, message: str) -> None:
    with pytest.raises(error, match=message):
        import_object(spec, error)


def test_a_missing_file_and_a_misspelt_name(file: Path) -> None:
    with pytest.raises(ModelError, match=r"Did you mean 'my-net.py'"):
        import_object(f"{file.parent / 'my_net.py'}:Nets", ModelError)
    with pytest.raises(ModelError, match=r"has no 'Netz'. Did you mean 'Nets'"):
        import_object(f"{file}:Netz", ModelError)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import no_such_package_anywhere",
            r"raised ModuleNotFoundError: No module named 'no_such_package_anywhere' .*Install that module",
        ),
        ("\n\nraise ValueError('half\\na step')", r"raised ValueError: half a step \(bad.py, line 3\). Mend it"),
        ("def f(:", "raised SyntaxError"),
        ("raise SystemExit", "raised SystemExit"),
    ],
)
def test_files_that_raise(tmp_path: Path, source: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    loaded = set(sys.modules)
    with pytest.raises(DataError, match=message) as caught:
        import_object(f"{path}:f", DataError)
    assert "\n" not in str(caught.value)
    assert not [name for name in set(sys.modules) - loaded if name.startswith("_halfstep_")]


def test_calls_that_raise(file: Path) -> None:
    with pytest.raises(ModelError, match=r"raised ZeroDivisionError: division by zero \(my-net.py, line 14\)"):
        call_object(f"{file}:broken", ModelError)
    with pytest.raises(ModelError, match="raised SystemExit: 3"):
        call_object(f"{file}:leaving", ModelError)


def test_an_interrupt_is_not_swallowed(tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        import_object(f"{path}:f", DataError)
