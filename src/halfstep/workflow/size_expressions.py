"""The grammar of sizes in a ``.pt2`` file, such as ``Mul(Integer(2), Symbol('s77', positive=True, integer=True))``.

torch hands them to ``sympy.sympify``, which evaluates them as Python. What passes here is arithmetic on symbols and numbers, and small.
"""

from __future__ import annotations

import ast
import re

SYMBOL = re.compile(r"(?:s|u|z|zf|zuf)\d{1,6}", re.ASCII)
"""A size as torch names it: s77, u0, zuf3."""
_MAX_TEXT, _MAX_NODES, _MAX_POWER, _MAX_INTEGER = 4000, 500, 64, 1 << 64
_CONSTANTS = ("oo", "int_oo", "true", "false")
_ARITHMETIC = """
    Add Mul Pow Max Min Mod Abs floor ceiling Integer Rational Float And Or Not Eq Ne Lt Le Gt Ge Equality Unequality StrictLessThan
    LessThan StrictGreaterThan GreaterThan FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt FloorToInt CeilDiv PowByNatural
    FloatPow FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat Identity
"""
_FUNCTIONS = frozenset(_ARITHMETIC.split())
_POWERS = ("Pow", "PowByNatural", "FloatPow")
_ASSUMPTIONS = ("positive", "nonnegative", "integer", "real", "finite", "extended_real", "nonzero")
_OPERATIONS = (
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd, ast.Invert, ast.BitAnd, ast.BitOr,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Load,
)  # fmt: skip


def refusal_of(text: str) -> str | None:
    """Why ``text`` is no size expression; None where it is one."""
    if len(text) > _MAX_TEXT or not text.isascii():
        return "it is too long" if text.isascii() else "it holds other letters"
    try:
        tree = ast.parse(text, mode="eval").body
        if sum(1 for _ in ast.walk(tree)) > _MAX_NODES:
            return "it is too long"
        _degree(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error).splitlines()[0] if isinstance(error, _RefusedError) else "it is no arithmetic"
    return None


class _RefusedError(ValueError):
    """A part that is no arithmetic on sizes."""


def _degree(node: ast.expr) -> int:  # noqa: C901, PLR0911  # one case for each form
    """The largest product of nested exponents, which bounds how large a value of 64 bits can become; raises for all but arithmetic."""
    match node:
        case ast.Constant(value=bool() | float()):
            return 1
        case ast.Constant(value=int(value)) if abs(value) <= _MAX_INTEGER:
            return 1
        case ast.Name(id=name) if SYMBOL.fullmatch(name) or name in _CONSTANTS:
            return 1
        case ast.UnaryOp(op=op, operand=operand) if isinstance(op, _OPERATIONS):
            return _degree(operand)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return _power(base, exponent)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATIONS):
            return max(_degree(left), _degree(right))
        case ast.Compare(left=left, ops=ops, comparators=others) if all(isinstance(op, _OPERATIONS) for op in ops):
            return max(_degree(part) for part in (left, *others))
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=keywords) if SYMBOL.fullmatch(name):
            _assumptions(keywords)
            return 1
        case ast.Call(func=ast.Name(id=name), args=[base, exponent], keywords=[]) if name in _POWERS:
            return _power(base, exponent)
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as arguments, keywords=[]) if name in _FUNCTIONS:
            return max(_degree(argument) for argument in arguments)
    raise _RefusedError(f"it holds {type(node).__name__.lower()}s that are no arithmetic on sizes")


def _power(base: ast.expr, exponent: ast.expr) -> int:
    value = ast.literal_eval(_plain(exponent))
    if not isinstance(value, (int, float)) or abs(value) > _MAX_POWER:
        raise _RefusedError("it has an exponent that is no small number")
    degree = _degree(base) * max(1, int(abs(value)))
    if degree > _MAX_POWER:
        raise _RefusedError("it has an exponent that is no small number")
    return degree


def _plain(node: ast.expr) -> ast.expr:
    """``Integer(2)`` as 2."""
    match node:
        case ast.Call(func=ast.Name(id="Integer" | "Float"), args=[argument], keywords=[]):
            return argument
    return node


def _assumptions(keywords: list[ast.keyword]) -> None:
    for entry in keywords:
        if entry.arg not in _ASSUMPTIONS or not isinstance(entry.value, ast.Constant) or not isinstance(entry.value.value, bool):
            raise _RefusedError("it holds assumptions that are none")
