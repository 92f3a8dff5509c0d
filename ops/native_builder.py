"""What functions in LLVM's language are put together from: loops, addresses, vectors of 16 floats, exp.

Knows no operation. Values are LLVM's, which have no types for Python; hence Any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
F16, F32, POINTER = ir.HalfType(), ir.FloatType(), ir.PointerType()
LANES = 16
FLOATS, INTS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
FLOAT_BYTES = 4

Body = Callable[[Any, list[Any]], list[Any]]


class Writer:
    """Writes one function. arguments: the function's; `done` must be called at its end."""

    def __init__(self, module: ir.Module, name: str, arguments: list[Any], *, inner: bool = False) -> None:
        self._module = module
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
        if inner:
            self.function.linkage = "internal"
            self.function.attributes.add("noinline")
        self.b = ir.IRBuilder(self.function.append_basic_block())

    def done(self) -> None:
        self.b.ret_void()

    def call(self, name: str, kind: Any, *arguments: Any) -> Any:
        """A function of LLVM, or one that the thread team knows: `kind` is what it returns."""
        callee = self._module.globals.get(name) or ir.Function(
            self._module, ir.FunctionType(kind, [each.type for each in arguments]), name
        )
        return self.b.call(callee, arguments)

    def thread(self) -> tuple[Any, Any]:
        """(this thread's number, number of threads)."""
        number, count = (self.call(f"omp_get_{what}", I32) for what in ("thread_num", "num_threads"))
        return self.b.zext(number, I64), self.b.zext(count, I64)

    def at(self, pointer: Any, num_bytes: Any) -> Any:
        """The address so many bytes behind another."""
        return self.b.gep(pointer, [num_bytes], source_etype=I8)

    def load(self, pointer: Any, kind: Any, align: int = FLOAT_BYTES) -> Any:
        return self.b.load(pointer, typ=kind, align=align)

    def store(self, value: Any, pointer: Any) -> None:
        self.b.store(value, pointer, align=FLOAT_BYTES)

    def spread(self, number: Any) -> Any:
        """One float or int32 in all places."""
        nothing = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
        first = self.b.insert_element(nothing, number, ir.Constant(I32, 0))
        return self.b.shuffle_vector(first, nothing, ints(0))

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x * y + z, rounded once."""
        return self.call(f"llvm.fma.v{x.type.count}f32", x.type, x, y, z)

    def sum(self, values: Any) -> Any:
        """Of the 16 places, in pairs: an order of its own, always the same."""
        return self._joined(values, self.b.fadd)

    def largest(self, values: Any) -> Any:
        """Of the 16 places, if they are numbers. LLVM's own takes them one after the other."""
        return self._joined(values, lambda x, y: self.b.select(self.b.fcmp_ordered(">", x, y), x, y))

    def _joined(self, values: Any, join: Callable[[Any, Any], Any]) -> Any:
        while values.type.count > 1:
            half = values.type.count // 2
            low, high = (
                self.b.shuffle_vector(values, values, ir.Constant(ir.VectorType(I32, half), list(places)))
                for places in (range(half), range(half, 2 * half))
            )
            values = join(low, high)
        return self.b.extract_element(values, ir.Constant(I32, 0))

    def exp(self, x: Any) -> Any:
        """e ** x for x <= 88; below -87, what is nearly nothing. Cephes' expf, 2 ulp; NaN stays NaN."""
        b = self.b
        lowest = floats(-87.0)
        x = b.select(b.fcmp_ordered("<", x, lowest), lowest, x)
        whole = self.call(f"llvm.rint.v{LANES}f32", FLOATS, b.fmul(x, floats(1.44269504088896341)))
        rest = self.fma(whole, floats(-0.693359375), x)
        rest = self.fma(whole, floats(2.12194440e-4), rest)
        series = floats(1.9875691500e-4)
        for term in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            series = self.fma(series, rest, floats(term))
        series = self.fma(series, b.fmul(rest, rest), b.fadd(rest, floats(1.0)))
        # A NaN has no whole number; LLVM's saturating conversion goes through the places one by one.
        whole = b.select(b.fcmp_ordered("ord", whole, whole), whole, floats(0.0))
        power = b.fptosi(whole, INTS)
        return b.fmul(series, b.bitcast(b.shl(b.add(power, ints(127)), ints(23)), FLOATS))

    def least(self, x: Any, y: Any) -> Any:
        """The smaller of two int64."""
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def most(self, x: Any, y: Any) -> Any:
        """The larger of two int64."""
        return self.b.select(self.b.icmp_signed(">", x, y), x, y)

    def loop(self, first: Any, last: Any, values: list[Any], body: Body) -> list[Any]:
        """for i in range(first, last): values = body(i, values). Returns the last values."""
        b, before = self.b, self.b.block
        head, inside, behind = (self.function.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        phis = [b.phi(value.type) for value in (first, *values)]
        for phi, value in zip(phis, (first, *values), strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", phis[0], last), inside, behind)
        b.position_at_end(inside)
        results = body(phis[0], list(phis[1:]))
        results = [b.add(phis[0], int64(1)), *results]
        for phi, value in zip(phis, results, strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(behind)
        return phis[1:]

    def share(self, num_tasks: Any, run: Callable[[Any], object]) -> None:
        """run(t), run(t + threads), run(t + 2 threads), ... in thread t, for all tasks."""
        thread, threads = self.thread()
        left = self.b.add(self.b.sub(num_tasks, thread), self.b.sub(threads, int64(1)))

        def each(index: Any, _: list[Any]) -> list[Any]:
            run(self.b.add(thread, self.b.mul(index, threads)))
            return []

        self.loop(int64(0), self.b.sdiv(left, threads), [], each)


def int64(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def ints(value: int) -> ir.Constant:
    return ir.Constant(INTS, [value] * LANES)


def floats(value: float) -> ir.Constant:
    return ir.Constant(FLOATS, [value] * LANES)
