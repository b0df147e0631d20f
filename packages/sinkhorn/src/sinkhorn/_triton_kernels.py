"""Triton kernels of the iteration, for n rows of k scores and column scales u (k,).

A program reads whole rows, each once: it normalises the row and adds it to the column sums in the same reading. Rows
that do not fit in registers beside the sums are read twice, in pieces (`wide_column_sums`). Every program writes sums
of its own, and `update` adds them in a fixed order. There are no atomics, so results repeat bit for bit.

A potential epsilon log u is stored as two float32, high + low, and the rounding error of scores + high is kept (Knuth's
two-sum). So exponents are accurate to the last bits of float32, although they are differences of numbers that are 1000
times larger.
"""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

LOWEST = tl.constexpr(-3.4e38)  # initial peak; finite, so that differences of peaks are not NaN


@triton.jit
def _multiple(value, ALIGN: tl.constexpr):
    """Tell the compiler that value is a multiple of ALIGN.

    Triton detects multiples of 16 only. K = 3000 is a multiple of 8, which is enough for loads of 16 bytes.
    """
    return value // ALIGN * ALIGN


@triton.jit
def _exponents(s, high, low, inv_epsilon):
    """Return a row of kernel diag(u) with largest entry 1, as epsilon times its logarithm and itself, and its sum."""
    t = s + high
    back = t - s
    lost = (s - (t - back)) + (high - back) + low
    x = tl.where(high != float("-inf"), (t - tl.max(t, 0)) + lost, float("-inf"))  # -inf: u is 0, or beyond column k
    e = tl.exp(x * inv_epsilon)
    return x, e, tl.sum(e, 0)


@triton.jit
def column_sums(
    scores, weights, potentials, sums, peaks, n, k, stride, inv_epsilon,
    FIRST: tl.constexpr, LOG: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Write to sums (programs, k) the weighted column sums of this program's normalised rows of kernel diag(u).

    FIRST: sum the kernel itself, without normalising. LOG: keep entries as logarithms in score units, and write sums of
    exp((entry - peak) / epsilon) together with their peaks (programs, k).
    """
    k, stride = _multiple(k, ALIGN), _multiple(stride, ALIGN)
    program, programs = tl.program_id(0), tl.num_programs(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < k
    high = tl.load(potentials + columns, inside, other=float("-inf"))
    low = tl.load(potentials + k + columns, inside, other=0.0)
    total = tl.zeros([BLOCK], tl.float32)
    peak = tl.full([BLOCK], LOWEST, tl.float32)
    rows = scores + program.to(tl.int64) * stride
    for row in range(program, n, programs):
        s = tl.load(rows + columns, inside, other=0.0).to(tl.float32)
        rows += programs.to(tl.int64) * stride
        weight = tl.load(weights + row) if WEIGHTED else 1.0
        if FIRST:
            x = tl.where(tl.abs(s) < float("inf"), s, float("nan"))  # -inf alone would leave finite codes
        else:
            x, e, row_sum = _exponents(s, high, low, inv_epsilon)
        if LOG:
            if not FIRST:
                x -= tl.log(row_sum) / inv_epsilon
            if WEIGHTED:  # a row of weight 0 must not raise the peaks
                x += tl.where(weight == 0.0, float("-inf"), 0.0)
            new = tl.maximum(peak, x)
            total = total * tl.exp((peak - new) * inv_epsilon) + weight * tl.exp((x - new) * inv_epsilon)
            peak = new
        else:
            total += e * (weight / row_sum)
    tl.store(sums + program * k + columns, total, inside)
    if LOG:
        tl.store(peaks + program * k + columns, peak, inside)


@triton.jit
def _tile_exponents(rows, potentials, columns, inside, k):
    """Return scores + epsilon log u of a tile (ROWS, BLOCK) in two parts, to be added last.

    Entries are -inf where u is 0 and beyond column k.
    """
    s = tl.load(rows + columns, inside, other=0.0).to(tl.float32)
    high = tl.load(potentials + columns, columns < k, other=float("-inf"))
    low = tl.load(potentials + k + columns, columns < k, other=0.0)
    t = s + high
    back = t - s
    lost = (s - (t - back)) + (high - back) + low
    return t, tl.where(high != float("-inf"), lost, 0.0)


@triton.jit
def wide_column_sums(
    scores, weights, potentials, sums, peaks, n, k, stride, inv_epsilon,
    FIRST: tl.constexpr, LOG: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Compute `column_sums` for rows of any length: ROWS rows per program, BLOCK columns at a time.

    The first reading computes the sum of each row, the second one, mostly from the cache, the column sums.
    """
    k, stride = _multiple(k, ALIGN), _multiple(stride, ALIGN)
    program = tl.program_id(0)
    row = program * ROWS + tl.arange(0, ROWS)[:, None]
    rows = scores + row.to(tl.int64) * stride
    weight = tl.where(row < n, 1.0, 0.0)
    if WEIGHTED:
        weight = tl.load(weights + row, row < n, other=0.0)
    top = tl.full([ROWS], LOWEST, tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    if not FIRST:
        for first in range(0, k, BLOCK):
            columns = first + tl.arange(0, BLOCK)[None, :]
            t, lost = _tile_exponents(rows, potentials, columns, (row < n) & (columns < k), k)
            new = tl.maximum(top, tl.max(t, 1))
            e = tl.exp(((t - new[:, None]) + lost) * inv_epsilon)
            row_sum = row_sum * tl.exp((top - new) * inv_epsilon) + tl.sum(e, 1)
            top = new
    for first in range(0, k, BLOCK):
        columns = first + tl.arange(0, BLOCK)[None, :]
        inside = (row < n) & (columns < k)
        if FIRST:
            s = tl.load(rows + columns, inside, other=0.0).to(tl.float32)
            x = tl.where(tl.abs(s) < float("inf"), s, float("nan"))  # -inf alone would leave finite codes
        else:
            t, lost = _tile_exponents(rows, potentials, columns, inside, k)
            x = (t - top[:, None]) + lost
        at = first + tl.arange(0, BLOCK)
        if LOG:
            if not FIRST:
                x -= (tl.log(row_sum) / inv_epsilon)[:, None]
            x += tl.where(weight == 0.0, float("-inf"), 0.0)  # a row of weight 0 must not raise the peaks
            peak = tl.maximum(tl.max(x, 0), LOWEST)
            total = tl.sum(weight * tl.exp((x - peak[None, :]) * inv_epsilon), 0)
            tl.store(peaks + program.to(tl.int64) * k + at, peak, at < k)
        else:
            total = tl.sum(tl.exp(x * inv_epsilon) * (weight / row_sum[:, None]), 0)
        tl.store(sums + program.to(tl.int64) * k + at, total, at < k)


@triton.jit
def update(
    sums, peaks, log_shares, log_u, new_log_u, potentials, programs, k,
    epsilon, epsilon_low, exponent, exponent_low,
    FIRST: tl.constexpr, LOG: tl.constexpr, SHARES: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Write new_log_u = exponent (log_shares - log(kernel^T v)) for BLOCK columns, in float64, and their potentials."""
    k = _multiple(k, ALIGN)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < k
    parts = tl.arange(0, PARTS)[:, None]
    epsilon64 = tl.zeros([BLOCK], tl.float64) + epsilon + epsilon_low
    exponent64 = tl.zeros([BLOCK], tl.float64) + exponent + exponent_low
    peak = tl.full([BLOCK], LOWEST, tl.float32)
    if LOG:
        for first in range(0, programs, PARTS):
            here = (first + parts < programs) & inside[None, :]
            peak = tl.maximum(peak, tl.max(tl.load(peaks + (first + parts) * k + columns[None, :], here, LOWEST), 0))
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, programs, PARTS):
        here = (first + parts < programs) & inside[None, :]
        part = tl.load(sums + (first + parts) * k + columns[None, :], here, other=0.0)
        if LOG:
            own = tl.load(peaks + (first + parts) * k + columns[None, :], here, LOWEST)
            part *= tl.exp((own - peak[None, :]) / epsilon)
        total += tl.sum(part.to(tl.float64), 0)
    log_mass = tl.log(total)
    if LOG:
        log_mass += peak.to(tl.float64) / epsilon64
    if not FIRST:
        log_mass -= tl.load(log_u + columns, inside, other=0.0)
    new = -exponent64 * log_mass
    if SHARES:
        share = tl.load(log_shares + columns, inside, other=0.0)
        new = tl.where(share == float("-inf"), share, new + exponent64 * share)
    tl.store(new_log_u + columns, new, inside)
    potential = epsilon64 * new
    high = potential.to(tl.float32)
    low = tl.where(high > float("-inf"), potential - high.to(tl.float64), 0.0)
    tl.store(potentials + columns, high, inside)
    tl.store(potentials + k + columns, low.to(tl.float32), inside)


@triton.jit
def write_codes(scores, potentials, codes, n, k, stride, inv_epsilon, BLOCK: tl.constexpr, ALIGN: tl.constexpr):
    """Write codes (n, k), the normalised rows of kernel diag(u)."""
    k, stride = _multiple(k, ALIGN), _multiple(stride, ALIGN)
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < k
    rows, out = scores + program * stride, codes + program * k
    for row in range(program, n, programs):
        s = tl.load(rows + columns, inside, other=0.0).to(tl.float32)
        # Potentials are loaded again for each row, from the cache, because long rows leave no registers to keep them.
        # The offset is always 0, but the compiler cannot know that, so it does not move the loads out of the loop.
        own = potentials + (row >> 63) * 16
        high = tl.load(own + columns, inside, other=float("-inf"))
        low = tl.load(own + k + columns, inside, other=0.0)
        _, e, row_sum = _exponents(s, high, low, inv_epsilon)
        tl.store(out + columns, e / row_sum, inside)
        rows += programs.to(tl.int64) * stride
        out += programs.to(tl.int64) * k
