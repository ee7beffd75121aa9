"""What the small device installs: the package imports without PyTorch, and says what is missing."""

import subprocess
import sys

HEAVY = ("torch", "timm", "torchvision", "accelerate", "matplotlib", "PIL")


def clean_process(code):
    """Run code in a fresh interpreter in which the heavy packages do not exist."""
    block = f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True)


def test_importing_sidetune_imports_nothing_heavy():
    code = f"import sys, sidetune; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_wire_needs_nothing_but_numpy():
    done = clean_process("import sidetune.wire.codec, sidetune.wire.infer, sidetune.wire.metadata")
    assert done.returncode == 0, done.stderr


def test_a_missing_extra_is_named():
    done = clean_process("import sidetune\nsidetune.adapt")
    assert "MissingExtra: sidetune.adapt (which imports " in done.stderr
    assert "pip install 'sidetune[train]'" in done.stderr


def test_the_command_line_starts_without_the_extras_and_names_what_a_verb_needs():
    run = "from sidetune.cli.main import main\nsys.argv = ['sidetune', {!r}, 'fashion-1k']\nmain()"
    assert "fine-tune a backbone" in clean_process(run.format("--help")).stdout.lower()
    done = clean_process(run.format("fit"))
    assert done.returncode == 2 and "pip install 'sidetune[train]'" in done.stderr and "Traceback" not in done.stderr


def test_unknown_names_are_attribute_errors_and_known_ones_are_listed():
    import sidetune

    assert not hasattr(sidetune, "adept")
    assert set(sidetune.__all__) <= set(dir(sidetune))
    assert all(getattr(sidetune, name) is not None for name in sidetune.__all__)
    assert sorted(sidetune.__all__) == sorted(n for names in sidetune.HOMES.values() for n in names)


def test_the_device_imports_numpy_safetensors_and_the_standard_library():
    names = ("cli", "client", "enroll", "http", "predict", "status", "trainer")
    imports = "".join(f"import sidetune.edge.{name}\n" for name in names)
    foreign = "{m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)"
    code = f"import sys\nbefore = {foreign}\n{imports}print(sorted({foreign} - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert eval(done.stdout) == ["numpy", "safetensors", "sidetune"], done.stderr
