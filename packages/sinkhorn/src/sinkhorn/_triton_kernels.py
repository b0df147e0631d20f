"""The passes as Triton kernels. Legend: n rows of k scores; u (k,) column scales.

A program reads whole rows, each once: a row's normalisation and its part of the column sums are one reading. Rows that
registers cannot hold beside the sums are read twice, in pieces (`wide_column_sums`). Programs write their sums side by
side and `update` adds them in order: no atomics, the same bits every time.

A potential epsilon log u is two float32, high + low, and the rounding of scores + high is kept (Knuth's two-sum), so
that exponents are right to float32's last bits though they are differences of numbers 1000 times larger.
"""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

LOWEST = tl.constexpr(-3.4e38)  # a peak before any: finite, so that differences of peaks are not NaN


@triton.jit
def _multiple(value, ALIGN: tl.constexpr):
    """value, which is a multiple of ALIGN, in a form that tells the compiler so.

    Triton looks at multiples of 16 only; K = 3000 is one of 8, enough for loads of 16 bytes."""
    return value // ALIGN * ALIGN


@triton.jit
def _exponents(s, high, low, inv_epsilon):
    """epsilon times the logarithms of a row of kernel diag(u), their largest 0; the exponentials; and their sum."""
    t = s + high
    back = t - s
    lost = (s - (t - back)) + (high - back) + low
    x = tl.where(high != float("-inf"), (t - tl.max(t, 0)) + lost, float("-inf"))  # u of 0, and columns beyond k
    e = tl.exp(x * inv_epsilon)
    return x, e, tl.sum(e, 0)


@triton.jit
def column_sums(
    scores, weights, potentials, sums, peaks, n, k, stride, inv_epsilon,
    FIRST: tl.constexpr, LOG: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """sums (programs, k): this program's rows of kernel diag(u), normalised, times their weights; FIRST: of the kernel.

    LOG: sums of exp((entry - peak) / epsilon), entries on logarithms in score units, with their peaks (programs, k)."""
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
            if WEIGHTED:  # a row that counts for nothing must not raise the peaks
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
    """Two parts, to be added last, of scores + epsilon log u of a tile (ROWS, BLOCK); -inf where u is 0 or beyond k."""
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
    """`column_sums` for rows of any length, ROWS of them a program, BLOCK columns at a time.

    A first reading finds each row's sum, a second one, mostly from the cache, adds the columns up."""
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
            x += tl.where(weight == 0.0, float("-inf"), 0.0)  # a row that counts for nothing must not raise the peaks
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
    """new_log_u = exponent (log_shares - log(kernel^T v)) for BLOCK columns, in float64, and their potentials."""
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
    """codes (n, k): rows of kernel diag(u), normalised."""
    k, stride = _multiple(k, ALIGN), _multiple(stride, ALIGN)
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < k
    rows, out = scores + program * stride, codes + program * k
    for row in range(program, n, programs):
        s = tl.load(rows + columns, inside, other=0.0).to(tl.float32)
        # loaded for each row, from the cache: to keep them would take registers that long rows do not leave. The
        # offset is 0, which the compiler does not know; it would take the loads out of the loop.
        own = potentials + (row >> 63) * 16
        high = tl.load(own + columns, inside, other=float("-inf"))
        low = tl.load(own + k + columns, inside, other=0.0)
        _, e, row_sum = _exponents(s, high, low, inv_epsilon)
        tl.store(out + columns, e / row_sum, inside)
        rows += programs.to(tl.int64) * stride
        out += programs.to(tl.int64) * k
