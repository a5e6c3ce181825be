"""exp, expm1, log, log1p and tanh as typed polynomials that LLVM turns into vector instructions.

Numba's own call the C library once an element. These are straight-line code: both sides of every choice are computed
and one is selected, so loops over them vectorise. At most 2 units in the last place in float32, 4 in float64 (see
tests/test_elementary.py); infinities and NaN go through as in C.

An integer n that is needed as bits is made by adding MAGIC, 1.5 * 2**(digits - 1): the sum's lowest bits are then n in
two's complement, and subtracting MAGIC gives n back as a number. No conversion is needed, and NaN does no harm.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

from .compilation import helper

_F, _I = np.float32, np.int32
_D, _L = np.float64, np.int64

_LOG2_E = 1.4426950408889634
_MAGIC32, _MAGIC64 = _F(1.5 * 2**23), _D(1.5 * 2**52)
# log 2 in two parts: n times the first is exact for every n that occurs, the second holds the digits that it lacks.
_LN2_HIGH32, _LN2_LOW32 = _F(0.693359375), _F(-2.12194440e-4)
_LN2_HIGH64, _LN2_LOW64 = _D(6.93147180369123816490e-01), _D(1.90821492927058770002e-10)
# 1/2!, 1/3!, ...: with |r| <= log(2)/2 the first term left out is below a tenth of a unit in the last place.
_E32 = tuple(_F(1 / math.factorial(k)) for k in range(2, 8))
_E64 = tuple(_D(1 / math.factorial(k)) for k in range(2, 14))
# 2/3, 2/5, 2/7, ...: log((1 + s) / (1 - s)) = 2 s (1 + s^2/3 + s^4/5 + ...), |s| <= 0.1716
_L32 = tuple(_F(2 / (2 * k + 1)) for k in range(1, 6))
_L64 = tuple(_D(2 / (2 * k + 1)) for k in range(1, 12))
# tanh x = x + x^3 p(x^2) for |x| < 0.45: the p of third degree with the least largest relative error of tanh there,
# 6e-9. Fitted; the series of tanh, -1/3 + 2/15 x^2 - 17/315 x^4 + ..., needs three terms more.
_TANH32 = tuple(_F(c) for c in (-0.33333247, 0.13329148, -0.05333431, 0.01799893))
_F0, _FHALF, _F1, _F2, _FINF, _FNAN = _F(0), _F(0.5), _F(1), _F(2), _F(math.inf), _F(math.nan)
_D0, _DHALF, _D1, _D2, _DINF, _DNAN = _D(0), _D(0.5), _D(1), _D(2), _D(math.inf), _D(math.nan)


@helper
def _power_of_two32(shifted):
    """2**n of shifted = n + MAGIC, for n of a normal number."""
    return _I(_I(_F(shifted).view(_I) + _I(127)) << _I(23)).view(_F)  # Numba adds int32 in int64


@helper
def _power_of_two64(shifted):
    return _L((_D(shifted).view(_L) + _L(1023)) << _L(52)).view(_D)


@helper
def _reduced_expm1_32(x):
    """n + MAGIC, n and expm1(r), where x = n log 2 + r with |r| <= log(2) / 2."""
    shifted = x * _F(_LOG2_E) + _MAGIC32
    n = shifted - _MAGIC32
    r = (x - n * _LN2_HIGH32) - n * _LN2_LOW32
    p = ((((_E32[5] * r + _E32[4]) * r + _E32[3]) * r + _E32[2]) * r + _E32[1]) * r + _E32[0]
    return shifted, n, r + r * r * p


@helper
def _reduced_expm1_64(x):
    shifted = x * _D(_LOG2_E) + _MAGIC64
    n = shifted - _MAGIC64
    r = (x - n * _LN2_HIGH64) - n * _LN2_LOW64
    p = ((((_E64[11] * r + _E64[10]) * r + _E64[9]) * r + _E64[8]) * r + _E64[7]) * r + _E64[6]
    p = (((((p * r + _E64[5]) * r + _E64[4]) * r + _E64[3]) * r + _E64[2]) * r + _E64[1]) * r + _E64[0]
    return shifted, n, r + r * r * p


@helper
def _exp32(x):
    x = _F(-110) if x < _F(-110) else x
    x = _F(95) if x > _F(95) else x
    _, n, q = _reduced_expm1_32(x)
    # 2**n in two factors: n reaches beyond the exponents of normal numbers at both ends
    half = n * _FHALF + _MAGIC32
    rest = (n - (half - _MAGIC32)) + _MAGIC32
    return ((q + _F1) * _power_of_two32(half)) * _power_of_two32(rest)


@helper
def _exp64(x):
    x = _D(-760) if x < _D(-760) else x
    x = _D(720) if x > _D(720) else x
    _, n, q = _reduced_expm1_64(x)
    half = n * _DHALF + _MAGIC64
    rest = (n - (half - _MAGIC64)) + _MAGIC64
    return ((q + _D1) * _power_of_two64(half)) * _power_of_two64(rest)


@helper
def _expm1_32(x):
    """exp(x) - 1 = 2 (2**(n-1) expm1(r) + (2**(n-1) - 1/2)): half of it first, for n = 128."""
    bounded = _F(-30) if x < _F(-30) else x
    bounded = _F(95) if bounded > _F(95) else bounded
    shifted, n, q = _reduced_expm1_32(bounded)
    scale = _power_of_two32(shifted - _F1)
    result = _F2 * (scale * q + (scale - _FHALF))
    result = q if n == _F0 else result
    return _FINF if x > _F(89) else result


@helper
def _expm1_64(x):
    bounded = _D(-50) if x < _D(-50) else x
    bounded = _D(720) if bounded > _D(720) else bounded
    shifted, n, q = _reduced_expm1_64(bounded)
    scale = _power_of_two64(shifted - _D1)
    result = _D2 * (scale * q + (scale - _DHALF))
    result = q if n == _D0 else result
    return _DINF if x > _D(710) else result


@helper
def _tanh32(x):
    """With e = exp(2 |x|): 1 - 2 / (e + 1), where (e + 1) / 2 = 2**(n-1) expm1(r) + 2**(n-1) + 1/2; near 0 a series."""
    size = abs(x)
    shifted, _, q = _reduced_expm1_32(_F2 * (_F(10) if size > _F(10) else size))
    scale = _power_of_two32(shifted - _F1)
    large = _F1 - _F1 / (scale * q + (scale + _FHALF))
    s = x * x
    series = ((_TANH32[3] * s + _TANH32[2]) * s + _TANH32[1]) * s + _TANH32[0]
    small = size + size * s * series  # both sides first: LLVM vectorises a choice, not a branch
    result = small if size < _F(0.45) else large
    return -result if x < _F0 else result


@helper
def _tanh64(x):
    """With t = expm1(2 |x|): t / (t + 2) while that is below a half, and 1 - 2 / (t + 2) beyond."""
    size = abs(x)
    t = _expm1_64(_D2 * (_D(20) if size > _D(20) else size))
    quotient = (t if t < _D2 else _D(-2)) / (t + _D2)
    result = quotient if t < _D2 else _D1 + quotient
    return -result if x < _D0 else result


@helper
def _log32(x):
    """With x = 2**n (1 + f), 1 + f in [sqrt(1/2), sqrt(2)), and s = f / (2 + f): n log 2 + log((1 + s) / (1 - s))."""
    scaled = x * _F(2**25) if x < _F(2**-126) else x  # a subnormal number's exponent is not in its bits
    bits = _F(scaled).view(_I)
    # Taking sqrt(1/2)'s bits off first lets the exponent field count from there.
    offset = _I(bits - _I(0x3F3504F3))
    n = _F(_I(offset >> _I(23))) - (_F(25) if x < _F(2**-126) else _F0)
    f = _I(_I(offset & _I(0x007FFFFF)) + _I(0x3F3504F3)).view(_F) - _F1
    result = _log_of_parts32(n, f)
    result = _FINF if x == _FINF else result
    result = -_FINF if x == _F0 else result
    return _FNAN if x < _F0 or x != x else result


@helper
def _log_of_parts32(n, f):
    s = f / (_F2 + f)
    z = s * s
    series = z * ((((_L32[4] * z + _L32[3]) * z + _L32[2]) * z + _L32[1]) * z + _L32[0])
    # log(1 + f) = f - (f^2/2 - s (f^2/2 + series)): the leading f is exact
    half_square = _FHALF * f * f
    return n * _LN2_HIGH32 - ((half_square - (s * (half_square + series) + n * _LN2_LOW32)) - f)


@helper
def _log64(x):
    scaled = x * _D(2**54) if x < _D(2.0**-1022) else x
    offset = _D(scaled).view(_L) - _L(0x3FE6A09E667F3BCD)
    # Adding 2**11 makes the exponent a positive number, which MAGIC's bits can take up
    n = _L(((offset >> _L(52)) + _L(2048)) | _L(0x4338000000000000)).view(_D) - (_MAGIC64 + _D(2048))
    n -= _D(54) if x < _D(2.0**-1022) else _D0
    f = _L((offset & _L(0x000FFFFFFFFFFFFF)) + _L(0x3FE6A09E667F3BCD)).view(_D) - _D1
    result = _log_of_parts64(n, f)
    result = _DINF if x == _DINF else result
    result = -_DINF if x == _D0 else result
    return _DNAN if x < _D0 or x != x else result


@helper
def _log_of_parts64(n, f):
    s = f / (_D2 + f)
    z = s * s
    series = ((((_L64[10] * z + _L64[9]) * z + _L64[8]) * z + _L64[7]) * z + _L64[6]) * z + _L64[5]
    series = z * (((((series * z + _L64[4]) * z + _L64[3]) * z + _L64[2]) * z + _L64[1]) * z + _L64[0])
    half_square = _DHALF * f * f
    return n * _LN2_HIGH64 - ((half_square - (s * (half_square + series) + n * _LN2_LOW64)) - f)


@helper
def _log1p32(x):
    """log(u) + (x - (u - 1)) / u with u = 1 + x: the second term gives back what rounding took from x."""
    u = _F1 + x
    result = _log32(u) + (x - (u - _F1)) / u
    result = -_FINF if u == _F0 else result
    return _FINF if x == _FINF else result


@helper
def _log1p64(x):
    u = _D1 + x
    result = _log64(u) + (x - (u - _D1)) / u
    result = -_DINF if u == _D0 else result
    return _DINF if x == _DINF else result


def exp(x):
    """e**x."""
    return math.exp(x)


def expm1(x):
    """e**x - 1, exact where x is near 0."""
    return math.expm1(x)


def log(x):
    """The natural logarithm; -inf at 0, NaN below."""
    return math.log(x)


def log1p(x):
    """log(1 + x), exact where x is near 0."""
    return math.log1p(x)


def tanh(x):
    """The hyperbolic tangent."""
    return math.tanh(x)


def _by_type(x, in32, in64):
    """What an overload of a function of x is: the float32 or the float64 version, or none for other types."""
    return in32 if x == types.float32 else in64 if x == types.float64 else None


@overload(exp)
def _exp(x):
    function = _by_type(x, _exp32, _exp64)
    return function and (lambda x: function(x))


@overload(expm1)
def _expm1(x):
    function = _by_type(x, _expm1_32, _expm1_64)
    return function and (lambda x: function(x))


@overload(log)
def _log(x):
    function = _by_type(x, _log32, _log64)
    return function and (lambda x: function(x))


@overload(log1p)
def _log1p(x):
    function = _by_type(x, _log1p32, _log1p64)
    return function and (lambda x: function(x))


@overload(tanh)
def _tanh(x):
    function = _by_type(x, _tanh32, _tanh64)
    return function and (lambda x: function(x))
