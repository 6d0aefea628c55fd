"""Names to operators and back, and the errors about wrong names."""

import importlib
import re
import textwrap
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any, Literal

import numpy as np
import pytest
import torch

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import packages, registry, user_files
from gradprobe.operators.fields import changed, make, split

EVERY = [f"{r}+{t}" for r in registry.RELAXATIONS for t in registry.THROTTLES]


@pytest.mark.parametrize("spec", EVERY)
def test_every_pair_of_parts_is_an_operator_with_that_name(spec):
    assert registry.label(registry.build(spec)) == spec


@pytest.mark.parametrize(("alias", "full"), registry.ALIASES.items())
def test_an_alias_is_its_full_name(alias, full):
    assert registry.label(registry.build(alias)) == full
    assert registry.build(alias) == registry.build(full)


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("vpnoise:tau=0.3", "lapsum:tau=0.3+vpnoise"),
        ("vpnoise:sigma=unit,tau=1.0", "lapsum+vpnoise:sigma=unit"),
        ("vpnoise:sigma=0.5", "lapsum+vpnoise:sigma=0.5"),
        ("gumbel:backward=soft,scale=2", "gumbel-ste:backward=soft,scale=2+gather"),
        ("gumbel-ste:scale=0+zero", "gumbel-ste:scale=0+zero"),
        ("scale:tau=1e-8", "lapsum:tau=1e-08+scale"),
        ("imle:lam=1000000+gather", "imle:lam=1e06+gather"),  # a plus would join two parts
        ("scale:tau=1234567e15", "lapsum:tau=1.234567e21+scale"),
    ],
)
def test_the_canonical_name_can_be_typed_back(typed, canonical):
    assert registry.label(registry.build(typed)) == canonical
    assert registry.build(canonical) == registry.build(typed)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("vpnose", "did you mean 'vpnoise'"),
        ("lapsum+gathr", "did you mean 'gather'"),
        ("lapsun+gather", "did you mean 'lapsum'"),
        ("vpnoise:tua=1", "did you mean 'tau'"),
        ("vpnoise:tau", "field=value"),
        ("vpnoise:tau=warm", "must be float"),
        ("vpnoise:tau=0", "must be positive"),
        ("vpnoise:tau=nan", "must be positive"),
        ("vpnoise:sigma=rsm", "sigma=rms, sigma=unit or a number"),
        ("gumbel:backward=sotf", "did you mean 'soft'"),
        ("divprune", "which is a selector and has no gradient: gradprobe retention --rankings divprune"),
        ("lapsum+norm", "unknown throttle 'norm', which is a selector"),
        ("softtopk+gather", "unknown relaxation 'softtopk', which is an operator"),
        ("lapsum", "only one part"),
        ("gather", "only one part"),
        ("", "is no name"),
        ("nowhere.py:Op", "no such file"),
        ("hard:tau=1", "no field 'tau'"),
        ("VPNoise", "did you mean 'vpnoise'"),
        ("vpnoise:TAU=1", "did you mean 'tau'"),
        ("vpnoise:tau=1, tau=2", "the field tau is given twice"),
        ("vpnoise:sigma=1e400", "a number >= 0"),
    ],
)
def test_a_wrong_name_is_a_usage_error_that_says_what_to_type(spec, words):
    with pytest.raises(UsageError) as caught:
        registry.build(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Typed:
    """Fields of many types."""

    mode: Literal[1, 2] = 1
    norm: float | Literal["l1"] | None = 0.5
    label: str | None = "a"
    flag: bool = False
    layers: tuple[int, ...] = (1, 2)
    table: Any = None
    names: list = field(default_factory=list)

    def __call__(self, patches, scores, k, noise):
        return None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("mode=2", 2), ("norm=None", None), ("norm=none", None), ("norm=l1", "l1"), ("norm=2", 2.0),
        ("label=None", None), ("label=b", "b"), ("flag", True),
    ],
)  # fmt: skip
def test_a_field_takes_what_its_type_says(text, value):
    name = text.partition("=")[0]
    made = make(Typed, split(f"typed:{text}")[1], "typed")
    assert getattr(made, name) == value
    assert make(Typed, split(f"typed:{changed(made)}")[1], "typed") == made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mode=3", "mode=3 is not possible; Known: 1, 2"),
        ("norm=l2", "it must be l1 or float or None"),
        ("flag=yes", "it must be true or false"),
        ("layers=3", "a value of type tuple[int, ...] cannot be typed: make the object in Python"),
    ],
)
def test_a_field_says_what_it_takes(text, words):
    with pytest.raises(UsageError) as caught:
        make(Typed, split(f"typed:{text}")[1], "typed")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "value", [torch.randn, np.arange(2000.0), torch.zeros(2, 2), (torch.ones(1),), torch.nn.Linear(2, 1), object()]
)
def test_a_field_that_no_text_tells_is_in_the_name_by_its_hash(value):
    """Numbers in a text are rounded or left out, so two tensors would have one name and one stored answer."""
    name = changed(Typed(table=value))
    assert re.fullmatch(r"table=\w+-[0-9a-f]{8}", name)
    assert name == changed(Typed(table=value))
    assert name != changed(Typed(table=np.nextafter(np.arange(2000.0), 9e9)))


def test_a_tensor_of_equal_numbers_has_one_name_and_a_default_none():
    assert changed(Typed(table=torch.ones(2))) == changed(Typed(table=torch.ones(2)))
    assert changed(Typed(table=torch.ones(2))) != changed(Typed(table=torch.ones(2) + 1e-6))
    assert changed(Typed(names=[])) == "" == changed(Typed())
    assert changed(Typed(norm=np.float32(0.1))) == f"norm={float(np.float32(0.1))}"


MINE = textwrap.dedent("""
    from dataclasses import dataclass
    from gradprobe import Selection

    @dataclass(frozen=True)
    class Half:
        by: float = 0.5
        def __call__(self, patches, scores, k, noise):
            weights = scores.sigmoid()
            return Selection(patches * (self.by * weights)[..., None], weights)

    @dataclass(frozen=True)
    class Sigmoid:
        def __call__(self, scores, k, noise):
            return scores.sigmoid()

    def function(patches, scores, k, noise):
        return Selection(patches, scores.sigmoid())
    """)


def test_an_operator_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    operator = registry.build(f"{path}:Half:by=0.25")
    assert operator.by == 0.25
    assert registry.label(operator) == f"{path}:Half:by=0.25"
    assert registry.label(registry.build(f"{path}:Sigmoid+vpnoise")) == f"{path}:Sigmoid+vpnoise"
    assert registry.label(registry.build(f"{path}:function")) == f"{path}:function"
    assert registry.code_of(operator) is not None
    with pytest.raises(UsageError, match="did you mean 'Half'"):
        registry.build(f"{path}:Halv")
    with pytest.raises(UsageError, match="no field 'of'"):
        registry.build(f"{path}:Half:of=1")


def test_a_file_that_cannot_be_imported_is_one_line(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import nothing_of_that_name\n")
    with pytest.raises(GradprobeError, match="cannot be imported: ModuleNotFoundError"):
        registry.build(f"{path}:Op")


def test_what_a_file_prints_is_no_part_of_the_output(tmp_path, capsys):
    path = tmp_path / "prints.py"
    path.write_text(f"print('hello')\n{MINE}")
    registry.build(f"{path}:Half")
    assert capsys.readouterr() == ("", "hello\n")


def test_the_hash_is_of_the_code_that_runs_though_its_file_is_edited_meanwhile(tmp_path, monkeypatch):
    """Else what the old code gives in the rest of a run is stored as an answer of the new code."""
    path = tmp_path / "meanwhile.py"
    path.write_text(MINE)
    early, late = registry.build(f"{path}:Half"), registry.build(f"{path}:Sigmoid+vpnoise")
    before = registry.code_of(early)
    path.write_text(MINE.replace("self.by * weights", "weights * weights"))
    assert registry.code_of(early) == registry.code_of(registry.build(f"{path}:Half:by=0.5")) == before
    late_hash = registry.code_of(late)  # first hashed after the edit
    user_files.forget()
    new = registry.build(f"{path}:Half"), registry.build(f"{path}:Sigmoid+vpnoise")
    assert registry.code_of(new[0]) != before and registry.code_of(new[1]) != late_hash
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_meanwhile.py").write_text(MINE)
    half = importlib.import_module("imported_meanwhile").Half()
    before = registry.code_of(half)
    (tmp_path / "imported_meanwhile.py").write_text(f"{MINE}\n# changed\n")
    assert registry.code_of(half) == before
    assert registry.code_of(importlib.reload(importlib.import_module("imported_meanwhile")).Half()) != before


def test_the_hash_of_the_code_changes_with_the_code(tmp_path):
    hashes = []
    for i, text in enumerate((MINE, MINE + "\n# changed\n", MINE)):
        path = tmp_path / f"mine{i}.py"
        path.write_text(text)
        hashes.append(registry.code_of(registry.build(f"{path}:Half")))
    assert hashes[0] == hashes[2] != hashes[1]
    assert registry.code_of(registry.build("vpnoise")) is None


def test_entry_points_are_names_like_any_other(tmp_path, monkeypatch):
    (tmp_path / "third_party_ops.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    points = {
        "gradprobe.operators": [EntryPoint("half", "third_party_ops:Half", "gradprobe.operators")],
        "gradprobe.relaxations": [EntryPoint("sig", "third_party_ops:Sigmoid", "gradprobe.relaxations")],
    }
    monkeypatch.setattr(packages, "entry_points", lambda group: points.get(group, []))
    assert registry.label(registry.build("half:by=2")) == "half:by=2"
    assert registry.label(registry.build("sig+vpnoise")) == "sig+vpnoise"
    assert "half" in registry.names("operator")
    with pytest.raises(UsageError, match=r"'sig', which is a relaxation: join it, sig\+gather; "):
        registry.build("sig")
    with pytest.raises(UsageError, match="did you mean 'half'"):
        registry.build("halff")


BROKEN = """
    import sys
    from gradprobe.operators.throttles.scale import Scale
    NUMBER = 3
    class Empty:
        pass
    class Raises:
        def __init__(self):
            raise ValueError("first line\\nsecond line")
    """


def installed(folder, package, points):
    """Metadata of a package with entry points, as pip leaves it."""
    info = folder / f"{package}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    (tmp_path / "broken_ops.py").write_text(textwrap.dedent(BROKEN))
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    points = ["gone = nowhere_at_all:Op", "none = broken_ops:Nothing", "number = broken_ops:NUMBER"]
    points += ["empty = broken_ops:Empty", "raises = broken_ops:Raises", "exits = exits:Op", "twice = broken_ops:Empty"]
    points += ["scale = broken_ops:Empty", "fine = broken_ops:Scale"]
    installed(tmp_path, "sick", "[gradprobe.throttles]\n" + "\n".join(points))
    installed(tmp_path, "rival", "[gradprobe.throttles]\ntwice = broken_ops:Scale\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", ["gone", "none", "number", "empty", "raises", "exits"])
def test_a_broken_plug_in_is_one_line_that_names_package_and_entry_point(name, plugins):
    with pytest.raises(GradprobeError) as caught:
        registry.build(f"lapsum+{name}")
    message = str(caught.value)
    assert "\n" not in message
    assert "sick 1.2" in message
    assert f"'{name}'" in message


def test_two_packages_with_one_name_are_both_named(plugins):
    with pytest.raises(GradprobeError) as caught:
        registry.build("lapsum+twice")
    for offer in ("sick 1.2 (broken_ops:Empty)", "rival 1.2 (broken_ops:Scale)"):
        assert offer in str(caught.value)
    assert "fine" in registry.names("throttle")


def test_a_broken_plug_in_hides_no_other_name(plugins, capsys):
    from gradprobe.cli.operators import listing

    listing("throttles", no_cost=True)
    shown = capsys.readouterr()
    for name in [*registry.THROTTLES, "gone", "none", "number", "empty", "raises", "exits", "twice", "fine"]:
        assert f"\n  {name} " in shown.out
    assert shown.out.count("cannot be used: ") == 7
    assert "'scale' of sick 1.2 is hidden by the built-in" in shown.err
    assert registry.label(registry.build("lapsum+fine")) == "lapsum+scale"  # it is the built-in class
