"""Reading YAML without running code in it.

Detectron2's ``Base-RetinaNet.yaml`` computes its anchor sizes with a YAML tag that calls Python's ``eval``. Detectron2
reads files with such tags by ``yaml.unsafe_load``, which can run any program. Here this one tag gives lists of numbers,
computed by :func:`number_list`. Every other tag that constructs a Python object is an error.
"""

import ast
import operator
from typing import Any

import yaml

_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
#: Largest exponent. Without it, ``9 ** 9 ** 9`` would fill the memory.
_LARGEST_EXPONENT = 64


def read_yaml(text: str) -> Any:
    """The content of a YAML text: plain data, and lists of numbers behind the tag of Base-RetinaNet.yaml.

    Raises:
        yaml.YAMLError: the text is not YAML, a tag would construct another Python object, or an expression is not a
            list of numbers.
    """
    return yaml.load(text, _Loader)


def number_list(expression: str) -> list:
    """The value of a Python expression made of lists, numbers, ``+ - * / **`` and ``[... for x in [...]]``.

    Raises:
        ValueError: the expression contains anything else or an exponent above 64, or its value is not a list.
    """
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body, {})
    except (SyntaxError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{expression!r} cannot be computed: {error}") from error
    if not isinstance(value, list):
        raise ValueError(f"{expression!r} is not a list")
    return value


def _value(node: ast.AST, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.List(elts=elements):
            return [_value(element, names) for element in elements]
        case ast.ListComp(elt=element, generators=[ast.comprehension(ast.Name(id=name), source, [], 0)]):
            values = _value(source, names)
            if isinstance(values, list):
                return [_value(element, names | {name: value}) for value in values]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, names)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            left, right = _number(left, names), _number(right, names)
            if isinstance(operation, ast.Pow) and abs(right) > _LARGEST_EXPONENT:
                raise ValueError(f"the exponent {right} is above {_LARGEST_EXPONENT}")
            return _OPERATIONS[type(operation)](left, right)
    raise ValueError(f"{ast.unparse(node)!r} is not allowed in a list of numbers")


def _number(node: ast.AST, names: dict[str, Any]) -> int | float:
    value = _value(node, names)
    if isinstance(value, list):
        raise ValueError(f"{ast.unparse(node)!r} is a list where a number is needed")
    return value


class _Loader(yaml.SafeLoader):
    """``yaml.SafeLoader`` with the one tag."""


def _construct(loader: _Loader, node: yaml.Node) -> list:
    arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(arguments) != 1 or not isinstance(arguments[0], str):
        raise yaml.constructor.ConstructorError(None, None, "expected a list with one expression", node.start_mark)
    try:
        return number_list(arguments[0])
    except ValueError as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _construct)
