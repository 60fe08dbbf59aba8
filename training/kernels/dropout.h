// Dropout in one pass: the random numbers are made where they are used, and made again on the way back. For processors
// that have AVX-512 bfloat16.
#pragma once

#include "multiply.h"

#ifdef CAROUSEL_X86

namespace {

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3): what it makes of the
// counters (first, 0, 0, 0), ..., (first + 15, 0, 0, 0), the first words of all sixteen first.
struct Random {
    __m512i words[4];
};

TARGET_BF16 INLINE Random philox(uint32_t first, uint64_t key) {
    const __m512i each = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i zero = _mm512_setzero_si512();
    __m512i c[4] = {_mm512_add_epi32(_mm512_set1_epi32(int(first)), each), zero, zero, zero};
    const auto high = [](__m512i a, __m512i b) INLINE_BF16 {
        const __m512i even = _mm512_srli_epi64(_mm512_mul_epu32(a, b), 32);
        return _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_mul_epu32(_mm512_srli_epi64(a, 32), b));
    };
    const __m512i m0 = _mm512_set1_epi32(int(0xd2511f53)), m1 = _mm512_set1_epi32(int(0xcd9e8d57));
    auto k0 = uint32_t(key), k1 = uint32_t(key >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9e3779b9, k1 += 0xbb67ae85) {
        const __m512i from0 = _mm512_xor_si512(_mm512_xor_si512(high(c[2], m1), c[1]), _mm512_set1_epi32(int(k0)));
        const __m512i from2 = _mm512_xor_si512(_mm512_xor_si512(high(c[0], m0), c[3]), _mm512_set1_epi32(int(k1)));
        c[1] = _mm512_mullo_epi32(c[2], m1);
        c[3] = _mm512_mullo_epi32(c[0], m0);
        c[0] = from0;
        c[2] = from2;
    }
    return {{c[0], c[1], c[2], c[3]}};
}

constexpr int kDrawn = 128;  // sixteen counters make as many numbers of 16 bits

// Up to kDrawn values. Number n of 16 bits stands for value n.
template <typename T>
TARGET_BF16 void drop_some(int count, uint32_t first, uint64_t key, int dropped, __m512 scale, const T* x, T* out) {
    alignas(64) uint16_t numbers[kDrawn];
    const Random drawn = philox(first, key);
    for (int w = 0; w < 4; ++w) _mm512_store_si512(numbers + w * kDrawn / 4, drawn.words[w]);
    for_sixteens(count, [&](int n, auto there) INLINE_BF16 {
        const __m512i number = _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(numbers + n)));
        const __mmask16 kept = _mm512_cmpge_epi32_mask(number, _mm512_set1_epi32(dropped));
        // A product, so that what is no number stays so.
        store(out + n, there, _mm512_mul_ps(load(there, x + n), _mm512_maskz_mov_ps(kept, scale)));
    });
}

// out: (count). Each value of x is zero with a chance of dropped / 2^16, or as much larger as keeps the mean; which ones
// are, the key alone says. dropped: below 2^16.
template <typename T>
void drop(Pool& pool, int64_t count, uint64_t key, int dropped, const T* x, T* out) {
    constexpr int64_t kItem = 64 * kDrawn;
    const float scale = 65536.0f / float(65536 - dropped);
    pool.run(int((count + kItem - 1) / kItem), [&](int item) TARGET_BF16 {
        const int64_t end = std::min(count, (item + 1) * kItem);
        for (int64_t n = item * kItem; n < end; n += kDrawn)
            drop_some(int(std::min<int64_t>(kDrawn, end - n)), uint32_t(n / kDrawn * 16), key, dropped,
                      _mm512_set1_ps(scale), x + n, out + n);
    });
}

}  // namespace

#endif
