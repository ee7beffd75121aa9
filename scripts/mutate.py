"""Do the tests notice it when a line of a module is wrong? Seeded changes of one place each, run against given tests.

python scripts/mutate.py sidetune/serve/batcher.py tests/serve/test_batcher.py [--number 20] [--seed 0] [--json FILE]

Every change is made in a copy of the project and undone again: comparisons and arithmetic swapped, constants moved by
one, conditions turned round, `and` for `or`, `min` for `max`, arguments and statements left out. What the tests passed
with is printed; whether such a change matters at all is for the reader to say.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "sidetune",
    "tests",
    "benchmarks",
    "scripts",
    "docs",
    "examples",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
)
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.LShift: ast.RShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Pow: ast.Mult,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}


@dataclass(frozen=True)
class Mutant:
    line: int
    before: str
    after: str
    start: int
    """Where the changed text begins in the file, in bytes, and ends."""
    end: int


def mutants(source: str) -> list[Mutant]:
    """Every change of one place that this script knows, in the order of the file."""
    tree = ast.parse(source)
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in worth_changing(tree):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        before = source.encode()[start:end].decode()
        for after in changes(node):
            text = after if isinstance(node, ast.stmt) else f"({after})"
            found.append(Mutant(line=node.lineno, before=before, after=text, start=start, end=end))
    return sorted(found, key=lambda m: (m.start, m.end, m.after))


def worth_changing(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Expressions and statements that compute: no annotations, no texts, not what a class is decorated with."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_params", "decorator_list") or isinstance(
            tree, (ast.JoinedStr, ast.Import)
        ):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or is_type_checking(child):
                continue
            if isinstance(child, (ast.expr, ast.stmt)):
                yield child
            yield from worth_changing(child)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def changes(node: ast.expr | ast.stmt) -> Iterator[str]:
    """What could stand in a node's place."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and len(new.ops) == 1:
        new.ops = [COMPARISONS[type(new.ops[0])]()]
        yield ast.unparse(new)
    elif isinstance(new, ast.BinOp) and type(new.op) in ARITHMETIC:
        new.op = ARITHMETIC[type(new.op)]()
        yield ast.unparse(new)
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        yield ast.unparse(new)
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, (ast.Not, ast.USub)):
        yield ast.unparse(new.operand)
    elif isinstance(new, ast.IfExp):
        yield ast.unparse(ast.IfExp(test=new.test, body=new.orelse, orelse=new.body))
    elif isinstance(new, ast.Constant) and isinstance(new.value, (bool, int, float)):
        yield str(not new.value) if isinstance(new.value, bool) else repr(new.value + 1)
    elif isinstance(new, ast.Name) and new.id in NAMES and isinstance(new.ctx, ast.Load):
        yield NAMES[new.id]
    elif isinstance(new, ast.Call):
        for keyword in list(new.keywords):
            if keyword.arg is not None:
                fewer = copy.deepcopy(new)
                fewer.keywords = [k for k in fewer.keywords if k.arg != keyword.arg]
                yield ast.unparse(fewer)
    elif isinstance(new, (ast.Expr, ast.Raise, ast.AugAssign, ast.Continue, ast.Break)):
        if not (isinstance(new, ast.Expr) and isinstance(new.value, (ast.Constant, ast.Yield, ast.YieldFrom))):
            yield "pass"
    elif isinstance(new, ast.Return) and ast.unparse(new) not in ("return", "return None"):
        yield "return None"


def is_valid(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def noticed(work: Path, tests: list[str], timeout: float) -> bool:
    """Whether the tests fail, or do not end, in the copy."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *tests]
    env = {**os.environ, "PYTHONPATH": str(work), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        command, cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        return running.wait(timeout) != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        try:
            os.killpg(running.pid, 9)  # with all that the tests started
        except ProcessLookupError:
            pass
        running.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--number", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=120, help="seconds that the tests may take")
    parser.add_argument("--json", type=Path, help="file that gains an entry for the module")
    given = parser.parse_args()
    module = given.module.resolve().relative_to(ROOT)
    source = (ROOT / module).read_text(encoding="utf-8")
    every = [m for m in mutants(source) if is_valid(changed(source, m))]
    chosen = random.Random(given.seed).sample(every, min(given.number, len(every)))
    survived = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for item in COPIED:
            if (ROOT / item).is_dir():
                shutil.copytree(ROOT / item, work / item, ignore=shutil.ignore_patterns("__pycache__", "results"))
            elif (ROOT / item).exists():
                shutil.copy(ROOT / item, work / item)
        if noticed(work, given.tests, given.timeout):
            sys.exit("the tests fail, or take too long, without any change")
        for mutant in sorted(chosen, key=lambda m: m.start):
            (work / module).write_text(changed(source, mutant), encoding="utf-8")
            if not noticed(work, given.tests, given.timeout):
                survived.append(mutant)
                print(f"{module}:{mutant.line}: {mutant.before}  ->  {mutant.after}", flush=True)
    print(
        f"{module}: {len(chosen) - len(survived)} of {len(chosen)} noticed ({len(every)} possible, seed {given.seed})"
    )
    if given.json is not None:
        told = json.loads(given.json.read_text()) if given.json.exists() else {}
        entry = {"seed": given.seed, "tried": len(chosen), "noticed": len(chosen) - len(survived)}
        told[str(module)] = {**entry, "survived": [asdict(m) for m in survived]}
        given.json.write_text(json.dumps(told, indent=1) + "\n")


def changed(source: str, mutant: Mutant) -> str:
    data = source.encode()
    return (data[: mutant.start] + mutant.after.encode() + data[mutant.end :]).decode()


if __name__ == "__main__":
    main()
