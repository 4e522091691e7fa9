"""Compile kernels for GPUs that are not there, and read what came out.

`python tests/kernel_compiler.py --write` compiles everything and writes table.json; with names of
variants it prints their measures. It must not run where kernels are interpreted.
"""

import ast
import functools
import hashlib
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE / "kernels" / "table.json"
KERNELS = HERE.parent / "kernels"
sys.path.insert(0, str(HERE))

from kernel_variants import VARIANTS  # noqa: E402

# Counted in the disassembly: multiplies, fused floats, local memory, and what the rest is made of.
COUNTED = ("IMMA", "IGMMA", "HMMA", "HGMMA", "UTCHMMA", "FFMA", "POPC", "ATOMS")
COUNTED += ("LDL", "STL", "LDG", "LDGSTS", "SHFL", "BAR")


def digest(name):
    """A hash of everything that decides what a variant compiles to, but for the compiler."""
    variant = VARIANTS[name]
    module = variant.kernel.split(".")[0]
    texts = list(_texts(module))
    texts += map(repr, (variant.kernel, variant.types, variant.constants, variant.options))
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


@functools.cache
def _texts(module):
    """The code of a module of kernels and of all that it imports from beside it."""
    modules = sorted(_reached({module}))
    return tuple(_bare((KERNELS / f"{each}.py").read_text()) for each in modules)


def _reached(modules):
    """Modules of kernels, and those that they import from beside them."""
    found = set(modules)
    for module in modules:
        tree = ast.parse((KERNELS / f"{module}.py").read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        beside = {node.module for node in imports if node.level and node.module}
        found |= _reached(beside - found)
    return found


def _bare(source):
    """The code of a module, without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def build(name, architecture):
    """Measures of one variant: registers, stack, shared memory, instructions, and its PTX."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    variant = VARIANTS[name]
    module, function = variant.kernel.split(".")
    kernel = getattr(importlib.import_module(f"memcore.kernels.{module}"), function)
    signature, constants, hints = {}, {}, {}

    def described(kind, path):
        """The type of an argument, or of a part of one, as Triton is told it."""
        if isinstance(kind, tuple):
            return type(kind)(*(described(each, (*path, i)) for i, each in enumerate(kind)))
        if kind in (None, "1"):
            constants[path] = None if kind is None else 1
            return "constexpr"
        if kind.endswith("!"):
            hints[path] = [["tt.divisibility", 16]]
        return kind.rstrip("!")

    for i, parameter in enumerate(kernel.params):
        if parameter.name in variant.constants:
            signature[parameter.name] = "constexpr"
            constants[(i,)] = variant.constants[parameter.name]
        else:
            signature[parameter.name] = described(variant.types.get(parameter.name), (i,))
    source = ASTSource(kernel, signature, constants, hints)
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options=dict(variant.options))
    tools = Path(inspect.getfile(triton)).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage, code = (_dump(tools, flag, cubin) for flag in ("-res-usage", "-sass"))
    sizes = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", code)
    counts = Counter(names)
    ptx = compiled.asm["ptx"]
    return {
        "registers": int(sizes["REG"]),
        "stack": int(sizes["STACK"]) + int(sizes["LOCAL"]),
        "shared": compiled.metadata.shared,
        "instructions": len(names),
        "counts": {each: counts[each] for each in COUNTED if counts[each]},
        "inexact": sorted(set(re.findall(r"\b(?:fma\.\S*f32|\S+\.approx\S*|\S+\.ftz\S*)", ptx))),
    }


def _dump(tools, flag, cubin):
    return subprocess.run(
        [tools / "cuobjdump", flag, cubin],
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def measure(names):
    """The table's rows of these variants, for every architecture."""
    return {
        name: {
            "digest": digest(name),
            **{f"sm_{each}": build(name, each) for each in VARIANTS[name].architectures},
        }
        for name in names
    }


if __name__ == "__main__":
    chosen = [name for name in sys.argv[1:] if name != "--write"] or list(VARIANTS)
    rows = measure(chosen)
    if "--write" in sys.argv:
        before = json.loads(TABLE.read_text()) if TABLE.exists() else {}
        rows = {name: {**before, **rows}[name] for name in VARIANTS if name in {**before, **rows}}
        lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
        TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        print(json.dumps(rows))
