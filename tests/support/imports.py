"""Who imports whom in the package, read from the sources. `python tests/support/imports.py [SRC]` prints the counts."""

import ast
import sys
from collections import defaultdict
from pathlib import Path


def room(path, package):
    """The top-level file or folder that a source file belongs to."""
    return path.relative_to(package).with_suffix("").parts[0]


def module(path, package):
    """The dotted name of a source file below the package; a package's `__init__` is the package."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(package):
    """Every source file but the package's own `__init__`."""
    return sorted(path for path in package.rglob("*.py") if path != package / "__init__.py")


def imported(nodes, path, package):
    """The modules that a file imports from the package (a name in a module counts as that module), and those from outside."""
    inside, outside = set(), set()
    here = ("cheaplip", *path.relative_to(package).parent.parts)
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else ()
            full = ".".join([*base, *([node.module] if node.module else [])])
            names = [full] if node.module else [f"{full}.{alias.name}" for alias in node.names]
            # `from ..bounds import subdivision` names a module, `from ..bounds import Ball` a name in one
            names += [f"{full}.{alias.name}" for alias in node.names if is_module(f"{full}.{alias.name}", package)]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first != "cheaplip":
                outside.add(first)
            elif rest:
                inside.add(rest)
            elif isinstance(node, ast.Import):
                inside.add("__init__")
    return inside, outside


def is_module(name, package):
    """Whether a dotted name is a file or folder of the package."""
    path = package.joinpath(*name.split(".")[1:])
    return name.startswith("cheaplip.") and (path.with_suffix(".py").exists() or (path / "__init__.py").exists())


def on_import(tree):
    """The nodes that run when a module is imported: not those in functions or behind TYPE_CHECKING."""
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
            continue
        yield node
        stack += list(ast.iter_child_nodes(node))


def arrows(package, name=module):
    """For every file (or, with `room`, every room) what it imports from the package, itself left away."""
    graph = defaultdict(set)
    for path in sources(package):
        inside, _ = imported(ast.walk(ast.parse(path.read_text())), path, package)
        ends = {target.split(".")[0] for target in inside} if name is room else inside
        graph[name(path, package)] |= ends - {name(path, package)}
    return dict(graph)


def circles(graph):
    """What is left of a graph after everything that imports nothing of the rest has been taken out, again and again."""
    left = dict(graph)
    while free := [name for name, ends in left.items() if not ends & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


if __name__ == "__main__":
    package = Path(sys.argv[1] if len(sys.argv) > 1 else "src/cheaplip")
    rooms, files = arrows(package, room), arrows(package)
    top = [path for path in package.iterdir() if path.suffix in ("", ".py") and path.name not in ("__pycache__", "__init__.py")]
    print(f"on top: {sum(path.is_file() for path in top)} files, {sum(path.is_dir() for path in top)} folders")
    print(f"rooms: {len(rooms)}, arrows between them: {sum(map(len, rooms.values()))}, circles: {circles(rooms)}")
    print(f"files: {len(files)}, arrows between them: {sum(map(len, files.values()))}, circles: {circles(files)}")
    lines = sum(len(path.read_text().splitlines()) for path in package.rglob("*.py"))
    print(f"lines: {lines}")
