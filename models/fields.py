"""What the fields of a dataclass mean, in the words that stand under them in the source: the one place where an option,
a body's field or a setting is described."""

import ast
import inspect
import textwrap
from functools import cache


@cache
def descriptions(cls: type) -> dict[str, str]:
    """Field name -> its docstring, on one line; fields of base classes first, fields without a docstring left out."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ != "builtins":
            found |= _own(base)
    return found


def _own(cls: type) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):  # made at run time, or without its source
        return {}
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, following in zip(body.body, body.body[1:], strict=False):
        described = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and described:
            assert isinstance(following, ast.Expr)
            assert isinstance(following.value, ast.Constant)
            if isinstance(text := following.value.value, str):
                found[field.target.id] = " ".join(text.split())
    return found
