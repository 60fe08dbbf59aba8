// Arithmetic on single numbers and on sixteen at once, and buffers.
#pragma once

#include "base.h"

namespace {

INLINE float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

INLINE uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

INLINE uint16_t to_bfloat16(float value) {  // round to nearest, ties to even
    const uint32_t bits = float_to_bits(value);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

constexpr float kLog2E = 1.44269504088896341f;

// exp, by Cody-Waite reduction and the polynomial of Cephes' expf: relative error below 2e-7 for x in [-87, 88].
INLINE float exp_f(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    const float shifted = x * kLog2E + 12582912.0f;  // the integer sits in the low bits of the mantissa
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * bits_to_float((float_to_bits(shifted) << 23) + 0x3f800000u);
}

INLINE float sigmoid_f(float x) { return 1.0f / (1.0f + exp_f(-x)); }
INLINE float tanh_f(float x) { return 2.0f / (1.0f + exp_f(-2.0f * x)) - 1.0f; }

#ifdef CAROUSEL_X86
// exp_f, on sixteen values.
TARGET_512 INLINE __m512 exp_512(__m512 x) {
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), _mm512_set1_ps(88.0f));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(kLog2E)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

// 2 to the x: relative error below 2e-7, zero or infinite where that is out of range, for infinite x too (scalef makes it
// so, whatever it scales). What is not a number stays so.
TARGET_512 INLINE __m512 exp2_512(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(x, 0), r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(1.3264727e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.671513e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5507336e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4022242e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.93147e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

// The lanes of a block of sixteen that are there when `left` values are left.
INLINE __mmask16 lanes(int left) { return left >= 16 ? __mmask16(0xffff) : __mmask16((1u << std::max(left, 0)) - 1); }
#endif

constexpr std::align_val_t kPage{4096};

struct Free {
    void operator()(void* p) const { ::operator delete(p, kPage); }
};

// An aligned buffer that only grows; its content is lost when it does.
template <typename T>
class Buffer {
  public:
    T* reserve(size_t count) {
        if (count > capacity_) {
            const size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096;
            data_.reset(static_cast<T*>(::operator new(bytes, kPage)));
            std::memset(data_.get(), 0, bytes);
            capacity_ = count;
        }
        return data_.get();
    }
    T* get() const { return data_.get(); }

  private:
    std::unique_ptr<T, Free> data_;
    size_t capacity_ = 0;
};

}  // namespace
