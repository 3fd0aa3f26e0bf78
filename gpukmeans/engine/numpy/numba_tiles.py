"""Products and distances of a few rows and centers in registers, which no loop of numba's becomes (`fast`).

A tile keeps a register of sums for each of its rows and panels, a panel being as many centers as a register holds
numbers; each step reads the panels' next feature, and each row's, once. Scores are fused where the processor can, as
the certificate allows; D is not (test_numba_passes.test_only_scores_are_fused).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

# Whether the processor that numba compiles for has 32 registers of 64 bytes, or 16 of 32.
_WIDE = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")

# Centers of a panel: as many float32 as a register holds, or float64. Rows of a tile; beside one panel they are eight.
PANEL, EXACT_PANEL, ROWS = (16, 8, 8) if _WIDE else (8, 4, 4)

# Rows whose D to their own centers is taken together, in registers of so many: two, as additions wait for each other.
OWN, _OWN_LANES = 8, 4

_INDEX, _LANE, _BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8)

# Eight rows of eight numbers are turned around in three rounds, pairs of registers 1, 2 and 4 apart; of four rows in
# two, and halves are taken apart.
_ROUNDS = (
    (1, (0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)),
    (2, (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)),
    (4, (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)),
)
_FOUR_ROUNDS = (1, (0, 4, 2, 6), (1, 5, 3, 7)), (2, (0, 1, 4, 5), (2, 3, 6, 7))
_HALVES = (0, 1, 2, 3), (4, 5, 6, 7)
_ORDER = 0, 2, 1, 3, 4, 6, 5, 7


def _address(typing: Any, array: Any) -> Any:
    """Where an array's values are, be it one to read or to write."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, _INDEX)

    return types.int64(array), generate


def _bits(typing: Any, value: Any) -> Any:
    """The bits of a float64, as an int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _INDEX)

    return types.int64(types.float64), generate


address: Any = intrinsic(_address)
bits: Any = intrinsic(_bits)


def _picked(builder: Any, one: Any, other: Any, lanes: tuple[int, ...]) -> Any:
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_LANE, len(lanes)), list(lanes)))


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Of eight or four registers of eight numbers, eight with those at the same place in each."""
    for gap, low, high in _ROUNDS:
        if gap < len(rows):
            for i in (i for i in range(len(rows)) if not i & gap):
                one, other = rows[i], rows[i + gap]
                rows[i], rows[i + gap] = _picked(builder, one, other, low), _picked(builder, one, other, high)
    if len(rows) < len(_ORDER):
        rows = [_picked(builder, row, row, half) for half in _HALVES for row in rows]
    return [rows[i] for i in _ORDER]


def _four_turned(builder: Any, rows: list[Any]) -> list[Any]:
    """The same of four registers of four."""
    for gap, low, high in _FOUR_ROUNDS:
        for i in (i for i in range(4) if not i & gap):
            one, other = rows[i], rows[i + gap]
            rows[i], rows[i + gap] = _picked(builder, one, other, low), _picked(builder, one, other, high)
    return rows


def _by_centers(builder: Any, rows: list[Any]) -> list[Any]:
    """Of registers of PANEL numbers as many as that, each with those at the same place; eight places at a time."""
    parts = [tuple(range(at, at + len(_ORDER))) for at in range(0, PANEL, len(_ORDER))]
    return [turned for part in parts for turned in _turned(builder, [_picked(builder, row, row, part) for row in rows])]


def _prefetch(builder: Any, pointer: Any) -> None:
    """Have the line at this address fetched, should there be one."""
    arguments = [pointer.type, _LANE, _LANE, _LANE]
    kind = ir.FunctionType(ir.VoidType(), arguments)
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
    builder.call(function, [pointer, _LANE(0), _LANE(3), _LANE(1)])


def _tile(rows: int, panels: int, *, scores: bool) -> Any:
    """tile(at, index, first, centers, p, out[, one]): of the rows at index[first:], in a C-contiguous matrix at this
    address, and of so many panels (P, d, lanes) from the p-th. scores: products of float32 in out (P * lanes, m), else
    D of float64 in out (m, P * lanes). one, of D: 1.0, which LLVM is not to know. Half of the differences are
    x * 1 - c, the same bits whether fused or not: so processors that add and multiply in different places are as busy
    in both."""
    scalar, lanes = (ir.FloatType(), PANEL) if scores else (ir.DoubleType(), EXACT_PANEL)
    vector = ir.VectorType(scalar, lanes)

    def step(builder: Any, x: Any, z: Any, total: Any, ones: Any, turn: int) -> Any:
        if scores:
            return builder.fadd(total, builder.fmul(x, z, flags=("contract",)), flags=("contract",))
        if turn % 2:
            off = builder.fsub(builder.fmul(x, ones, flags=("contract",)), z, flags=("contract",))
        else:
            off = builder.fsub(x, z)
        return builder.fadd(total, builder.fmul(off, off))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def array(i: int) -> Any:
            return context.make_array(signature.args[i])(context, builder, arguments[i])

        def moved(pointer: Any, *by: Any) -> Any:
            for factors in by:
                offset = factors[0]
                for factor in factors[1:]:
                    offset = builder.mul(offset, factor)
                pointer = builder.gep(pointer, [offset])
            return pointer

        index, centers, out = array(1), array(3), array(5)
        first, p = arguments[2], arguments[4]
        d, width = (cgutils.unpack_tuple(builder, values.shape)[1] for values in (centers, out))
        start = builder.inttoptr(arguments[0], scalar.as_pointer())
        numbers = [builder.load(moved(index.data, [first], [_INDEX(i)])) for i in range(rows)]
        x = [moved(start, [number, d]) for number in numbers]
        places = [builder.add(p, _INDEX(q)) for q in range(panels)]
        z = [builder.bitcast(moved(centers.data, [q, d, _INDEX(lanes)]), vector.as_pointer()) for q in places]
        zero = ir.Constant(vector, [0.0] * lanes)

        def everywhere(value: Any) -> Any:
            return _picked(builder, builder.insert_element(zero, value, _LANE(0)), zero, (0,) * lanes)

        ones = None if scores else everywhere(arguments[6])
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(rows)] for _ in range(panels)]
        following = builder.bitcast(moved(x[-1], [d]), _BYTE.as_pointer()) if scores else None
        with cgutils.for_range(builder, d) as loop:
            if following is not None:
                _prefetch(builder, moved(following, [loop.index, _INDEX(rows * 4)]))
            panel = [builder.load(moved(pointer, [loop.index]), align=4) for pointer in z]
            for i in range(rows):
                value = everywhere(builder.load(moved(x[i], [loop.index])))
                for q in range(panels):
                    total = builder.load(sums[q][i])
                    builder.store(step(builder, value, panel[q], total, ones, i * panels + q), sums[q][i])
        for q in range(panels):
            found = [builder.load(total) for total in sums[q]]
            at = [builder.mul(places[q], _INDEX(lanes)), first]
            for i, value in enumerate(_by_centers(builder, found) if scores else found):
                major, minor = at if scores else reversed(at)
                place = moved(out.data, [builder.add(major, _INDEX(i)), width], [minor])
                builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=4)
        return context.get_dummy_value()

    def tile(typing: Any, at: Any, index: Any, first: Any, centers: Any, p: Any, out: Any) -> Any:
        return types.void(at, index, first, centers, p, out), generate

    def tile_of_distances(
        typing: Any, at: Any, index: Any, first: Any, centers: Any, p: Any, out: Any, one: Any
    ) -> Any:
        return types.void(at, index, first, centers, p, out, one), generate

    return intrinsic(tile if scores else tile_of_distances)


def _own_distances(typing: Any, x: Any, index: Any, centers: Any, own: Any, out: Any) -> Any:
    """own_distance_tile(x, index, centers, own, out): D of OWN rows x[index] to a center each, centers[own]. Squares of
    four features are turned around, so that each row's come in order in a lane of its own."""
    lanes, scalar = _OWN_LANES, ir.DoubleType()
    vector = ir.VectorType(scalar, lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, order, places, numbers, result = (
            context.make_array(kind)(context, builder, argument)
            for kind, argument in zip(signature.args, arguments, strict=True)
        )
        d = cgutils.unpack_tuple(builder, places.shape)[1]
        value = rows.data.type.pointee
        apart, between = cgutils.unpack_tuple(builder, rows.strides)
        lies = signature.args[0].layout == "C"

        def wide(values: Any, kind: Any) -> Any:
            if value == scalar:
                return values
            return builder.uitofp(values, kind) if isinstance(value, ir.IntType) else builder.fpext(values, kind)

        def x_at(row: Any, j: Any) -> Any:
            return builder.inttoptr(builder.add(row, builder.mul(between, j)), value.as_pointer())

        def four(row: Any, j: Any) -> Any:
            if lies:
                pointer = builder.bitcast(x_at(row, j), ir.VectorType(value, lanes).as_pointer())
                return wide(builder.load(pointer, align=1), vector)
            several = [wide(builder.load(x_at(row, builder.add(j, _INDEX(a)))), scalar) for a in range(lanes)]
            return joined(several)

        def joined(several: list[Any]) -> Any:
            found = ir.Constant(vector, ir.Undefined)
            for a, each in enumerate(several):
                found = builder.insert_element(found, each, _LANE(a))
            return found

        def squares(off: Any) -> Any:
            return builder.fmul(off, off)

        start = builder.ptrtoint(rows.data, _INDEX)
        at = [builder.load(builder.gep(order.data, [_INDEX(r)])) for r in range(OWN)]
        at = [builder.add(start, builder.mul(apart, i)) for i in at]
        to = [builder.load(builder.gep(numbers.data, [_INDEX(r)])) for r in range(OWN)]
        to = [builder.gep(places.data, [builder.mul(i, d)]) for i in to]
        sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * lanes)) for _ in range(OWN // lanes)]
        whole = builder.and_(d, _INDEX(-lanes))
        with cgutils.for_range(builder, builder.udiv(d, _INDEX(lanes))) as loop:
            j = builder.mul(loop.index, _INDEX(lanes))
            for g, total in enumerate(sums):
                found = []
                for r in range(g * lanes, (g + 1) * lanes):
                    center = builder.bitcast(builder.gep(to[r], [j]), vector.as_pointer())
                    found.append(squares(builder.fsub(four(at[r], j), builder.load(center, align=8))))
                for turned in _four_turned(builder, found):
                    builder.store(builder.fadd(builder.load(total), turned), total)
        with cgutils.for_range(builder, builder.sub(d, whole)) as loop:
            j = builder.add(whole, loop.index)
            for g, total in enumerate(sums):
                those = range(g * lanes, (g + 1) * lanes)
                x_s = joined([wide(builder.load(x_at(at[r], j)), scalar) for r in those])
                c_s = joined([builder.load(builder.gep(to[r], [j])) for r in those])
                builder.store(builder.fadd(builder.load(total), squares(builder.fsub(x_s, c_s))), total)
        for g, total in enumerate(sums):
            place = builder.bitcast(builder.gep(result.data, [_INDEX(g * lanes)]), vector.as_pointer())
            builder.store(builder.load(total), place, align=8)
        return context.get_dummy_value()

    return types.void(x, index, centers, own, out), generate


own_distance_tile: Any = intrinsic(_own_distances)

# Sums are as many as keep additions from waiting for each other, and fit into the registers.
tile_of_three, tile_of_two = _tile(ROWS, 3, scores=True), _tile(ROWS, 2, scores=True)
tile_of_one = _tile(8, 1, scores=True)
distance_tile = _tile(ROWS, 2, scores=False)
