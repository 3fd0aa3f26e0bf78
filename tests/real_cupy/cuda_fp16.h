// CUDA's header of that name, as far as CuPy's float16.cuh asks for it.
#pragma once

struct __half_raw {
    unsigned short x;
};

class half {
    _Float16 value;

public:
    half() {}
    template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
    half(T number) : value((_Float16)number) {}
    half(const __half_raw& bits) : value(cuda_host::bits_of<_Float16>(bits.x)) {}
    operator float() const { return value; }
    operator __half_raw() const { return {cuda_host::bits_of<unsigned short>(value)}; }
};

inline unsigned short __half_as_ushort(half number) { return __half_raw(number).x; }
inline half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
