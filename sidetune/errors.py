"""Every error of our own.

SidetuneError
├── MissingExtra       a part that `pip install sidetune` does not bring is needed     (ImportError)
├── DataError          images, labels or folders that cannot be used                   (ValueError)
├── MethodRefused      a method that makes no sense on this backbone                   (ValueError)
├── WeightsMismatch    weights other than those that were trained on                   (ValueError)
├── CannotMerge        a method that cannot be folded into the backbone's weights      (ValueError)
├── RunExists          an output folder that already holds a run                       (ValueError)
├── InUse              a folder that another process works on                          (OSError)
├── OverBudget         a memory budget that no way of training this model meets        (ValueError)
├── ServiceError       a feature service that cannot be reached, or will not answer    (OSError)
├── NoSpace            a disk without room for what is about to be written             (OSError)
├── NonFiniteLoss      a loss that became NaN or infinite                              (ArithmeticError)
└── Interrupted        a run that was stopped by Ctrl-C and can be resumed

Wrong values of an argument are a plain `ValueError`. DataWarning (UserWarning): what was passed over in a user's data,
or looks like a slip in it.
"""

import difflib
import reprlib
from collections.abc import Iterable

SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 80


class SidetuneError(Exception):
    """Base of the errors a user can do something about."""


class MissingExtra(SidetuneError, ImportError):
    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'sidetune[{extra}]'")


class DataError(SidetuneError, ValueError):
    pass


class DataWarning(UserWarning):
    pass


class MethodRefused(SidetuneError, ValueError):
    pass


class WeightsMismatch(SidetuneError, ValueError):
    pass


class CannotMerge(SidetuneError, ValueError):
    pass


class RunExists(SidetuneError, ValueError):
    pass


class InUse(SidetuneError, OSError):
    pass


class OverBudget(SidetuneError, ValueError):
    pass


class ServiceError(SidetuneError, OSError):
    pass


class NoSpace(SidetuneError, OSError):
    pass


class NonFiniteLoss(SidetuneError, ArithmeticError):
    pass


class Interrupted(SidetuneError):
    pass


def shown(value: object) -> str:
    """A value as a message shows it, cut where it is long: what came may be megabytes."""
    return SHORT.repr(value)


def unknown(kind: str, name: object, known: Iterable[object]) -> ValueError:
    """The error for a name that a registry does not hold; it lists those that it does, those that are near first."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name)[:100], names, n=2)
    listed = f"; did you mean {' or '.join(near)}? Known: " if near else "; known: "
    return ValueError(f"unknown {kind} {shown(name)}{listed}{', '.join(names)}")
