// Products: 64 outputs of one group for up to 16 rows, by whatever the processor multiplies fastest with.
#pragma once

#include "matrix.h"

namespace {

// out: (rows, 64), the plain sums: float, or for int8 int32. ahead: null, or the lines of as large a group that will be
// wanted soon: a product that keeps the processor busy may fetch them meanwhile.
using Product = void (*)(const Matrix&, int group, const Rows&, int first, int rows, void* out, const char* ahead);

template <typename Sum, typename Accumulate>
INLINE void each_row(const Rows& x, int first, int rows, void* out, const Accumulate& accumulate) {
    for (int r = 0; r < rows; ++r) {
        Sum sums[kGroup] = {};
        accumulate(x.row(first + r), sums);
        std::memcpy(static_cast<Sum*>(out) + r * kGroup, sums, sizeof sums);
    }
}

CLONES void product_float32(const Matrix& m, int group, const Rows& x, int first, int rows, void* out, const char*) {
    each_row<float>(x, first, rows, out, [&](const char* row, float* sums) {
        const auto* w = reinterpret_cast<const float*>(m.group(group));
        const auto* v = reinterpret_cast<const float*>(row);
        for (int k = 0; k < m.inputs; ++k)
            for (int n = 0; n < kGroup; ++n) sums[n] = std::fma(v[k], w[k * kGroup + n], sums[n]);
    });
}

CLONES void product_bfloat16(const Matrix& m, int group, const Rows& x, int first, int rows, void* out, const char*) {
    each_row<float>(x, first, rows, out, [&](const char* row, float* sums) {
        const auto* w = reinterpret_cast<const uint32_t*>(m.group(group));
        const auto* v = reinterpret_cast<const uint32_t*>(row);
        for (int k = 0; k < m.lines; ++k)
            for (int n = 0; n < kGroup; ++n) {
                const uint32_t pair = w[k * kGroup + n];
                sums[n] = std::fma(bits_to_float(v[k] << 16), bits_to_float(pair << 16), sums[n]);
                sums[n] = std::fma(bits_to_float(v[k] & 0xffff0000u), bits_to_float(pair & 0xffff0000u), sums[n]);
            }
    });
}

CLONES void product_int8(const Matrix& m, int group, const Rows& x, int first, int rows, void* out, const char*) {
    each_row<int32_t>(x, first, rows, out, [&](const char* row, int32_t* sums) {
        const auto* w = reinterpret_cast<const int8_t*>(m.group(group));
        const auto* v = reinterpret_cast<const int8_t*>(row);
        for (int k = 0; k < m.lines; ++k)
            for (int n = 0; n < kGroup; ++n)
                for (int i = 0; i < 4; ++i) sums[n] += int(v[4 * k + i]) * int(w[k * kLine + 4 * n + i]);
    });
}

#ifdef CAROUSEL_X86

// R rows by 64 outputs in registers: a line of weights is read once for all of them. Sixteen rows are four of these,
// and each fetches a quarter of every line ahead.
template <int R>
TARGET_512 INLINE void float32_rows(const Matrix& m, int group, const Rows& x, int first, float* out, const char* ahead) {
    __m512 sums[R][4];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_ps();
    const float* v[R];
    for (int r = 0; r < R; ++r) v[r] = reinterpret_cast<const float*>(x.row(first + r));
    const char* line = m.group(group);
    for (int k = 0; k < m.inputs; ++k, line += kLine) {
        if (ahead) _mm_prefetch(ahead + size_t(k) * kLine, _MM_HINT_T1);
        __m512 w[4];
        for (int j = 0; j < 4; ++j) w[j] = _mm512_load_ps(line + 64 * j);
        for (int r = 0; r < R; ++r) {
            const __m512 value = _mm512_set1_ps(v[r][k]);
            for (int j = 0; j < 4; ++j) sums[r][j] = _mm512_fmadd_ps(value, w[j], sums[r][j]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 4; ++j) _mm512_storeu_ps(out + r * kGroup + 16 * j, sums[r][j]);
}

TARGET_512 void product_float32_512(const Matrix& m, int group, const Rows& x, int first, int rows, void* out,
                                      const char* ahead) {
    auto* o = static_cast<float*>(out);
    int r = 0;
    for (; r + 4 <= rows; r += 4) float32_rows<4>(m, group, x, first + r, o + r * kGroup, ahead ? ahead + 16 * r : nullptr);
    for (; r < rows; ++r) float32_rows<1>(m, group, x, first + r, o + r * kGroup, nullptr);
}

template <int R>
TARGET_BF16 INLINE void bfloat16_rows(const Matrix& m, int group, const Rows& x, int first, float* out, const char* ahead) {
    __m512 sums[R][4];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_ps();
    const int32_t* v[R];
    for (int r = 0; r < R; ++r) v[r] = reinterpret_cast<const int32_t*>(x.row(first + r));
    const char* line = m.group(group);
    for (int k = 0; k < m.lines; ++k, line += kLine) {
        if (ahead) _mm_prefetch(ahead + size_t(k) * kLine, _MM_HINT_T1);
        __m512bh w[4];
        for (int j = 0; j < 4; ++j) w[j] = (__m512bh)_mm512_load_si512(line + 64 * j);
        for (int r = 0; r < R; ++r) {
            const auto value = (__m512bh)_mm512_set1_epi32(v[r][k]);
            for (int j = 0; j < 4; ++j) sums[r][j] = _mm512_dpbf16_ps(sums[r][j], value, w[j]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 4; ++j) _mm512_storeu_ps(out + r * kGroup + 16 * j, sums[r][j]);
}

TARGET_BF16 void product_bfloat16_512(const Matrix& m, int group, const Rows& x, int first, int rows, void* out,
                                        const char* ahead) {
    auto* o = static_cast<float*>(out);
    int r = 0;
    for (; r + 4 <= rows; r += 4) bfloat16_rows<4>(m, group, x, first + r, o + r * kGroup, ahead ? ahead + 16 * r : nullptr);
    for (; r < rows; ++r) bfloat16_rows<1>(m, group, x, first + r, o + r * kGroup, nullptr);
}

// The instruction takes unsigned activations: 128 is added to each, and 128 times the sum of the weights taken off.
template <int R>
TARGET_VNNI INLINE void int8_rows(const Matrix& m, int group, const Rows& x, int first, int32_t* out, const char* ahead) {
    __m512i sums[R][4];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_si512();
    const int32_t* v[R];
    for (int r = 0; r < R; ++r) v[r] = reinterpret_cast<const int32_t*>(x.row(first + r));
    const char* line = m.group(group);
    for (int k = 0; k < m.lines; ++k, line += kLine) {
        if (ahead) _mm_prefetch(ahead + size_t(k) * kLine, _MM_HINT_T1);
        __m512i w[4];
        for (int j = 0; j < 4; ++j) w[j] = _mm512_load_si512(line + 64 * j);
        for (int r = 0; r < R; ++r) {
            const __m512i value = _mm512_set1_epi32(v[r][k] ^ int32_t(0x80808080));
            for (int j = 0; j < 4; ++j) sums[r][j] = _mm512_dpbusd_epi32(sums[r][j], value, w[j]);
        }
    }
    const int32_t* totals = m.sums.data() + size_t(group) * kGroup;
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 4; ++j) {
            const __m512i excess = _mm512_slli_epi32(_mm512_loadu_si512(totals + 16 * j), 7);
            _mm512_storeu_si512(out + r * kGroup + 16 * j, _mm512_sub_epi32(sums[r][j], excess));
        }
}

TARGET_VNNI void product_int8_512(const Matrix& m, int group, const Rows& x, int first, int rows, void* out,
                                    const char* ahead) {
    auto* o = static_cast<int32_t*>(out);
    int r = 0;
    for (; r + 4 <= rows; r += 4) int8_rows<4>(m, group, x, first + r, o + r * kGroup, ahead ? ahead + 16 * r : nullptr);
    for (; r < rows; ++r) int8_rows<1>(m, group, x, first + r, o + r * kGroup, nullptr);
}

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t columns[16] = {};
    uint8_t rows[16] = {};
};

// Sets the tiles up for as long as it lives, and leaves what other code on this thread had set up as it was.
class Tiles {
  public:
    TARGET_AMX Tiles() {
        _tile_storeconfig(&previous_);
        TileConfig config;
        for (int t = 0; t < 8; ++t) {
            config.columns[t] = 64;
            config.rows[t] = kTileRows;
        }
        everything_is_in_memory();
        _tile_loadconfig(&config);
    }
    TARGET_AMX ~Tiles() {
        everything_is_in_memory();
        if (previous_.palette) _tile_loadconfig(&previous_);
        else _tile_release();
    }

  private:
    // GCC's intrinsics tell the compiler of the first bytes of a configuration alone.
    static INLINE void everything_is_in_memory() { __asm__ volatile("" ::: "memory"); }

    TileConfig previous_;
};

// Tiles 0-3: sums of the four blocks of 16 outputs; 4: activations; 5-7: weights.
TARGET_AMX void product_int8_amx(const Matrix& m, int group, const Rows& x, int first, int, void* out, const char*) {
    const char* w = m.group(group);
    const char* v = x.row(first);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < m.lines; k += kTileRows, w += kTileRows * kLine, v += 64) {
        _tile_loadd(4, v, x.stride);
        _tile_loadd(5, w, kLine);
        _tile_dpbssd(0, 4, 5);
        _tile_loadd(6, w + 64, kLine);
        _tile_dpbssd(1, 4, 6);
        _tile_loadd(7, w + 128, kLine);
        _tile_dpbssd(2, 4, 7);
        _tile_loadd(5, w + 192, kLine);
        _tile_dpbssd(3, 4, 5);
    }
    char* o = static_cast<char*>(out);
    _tile_stored(0, o, kLine);
    _tile_stored(1, o + 64, kLine);
    _tile_stored(2, o + 128, kLine);
    _tile_stored(3, o + 192, kLine);
}

TARGET_AMX void product_bfloat16_amx(const Matrix& m, int group, const Rows& x, int first, int, void* out, const char*) {
    const char* w = m.group(group);
    const char* v = x.row(first);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < m.lines; k += kTileRows, w += kTileRows * kLine, v += 64) {
        _tile_loadd(4, v, x.stride);
        _tile_loadd(5, w, kLine);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(6, w + 64, kLine);
        _tile_dpbf16ps(1, 4, 6);
        _tile_loadd(7, w + 128, kLine);
        _tile_dpbf16ps(2, 4, 7);
        _tile_loadd(5, w + 192, kLine);
        _tile_dpbf16ps(3, 4, 5);
    }
    char* o = static_cast<char*>(out);
    _tile_stored(0, o, kLine);
    _tile_stored(1, o + 64, kLine);
    _tile_stored(2, o + 128, kLine);
    _tile_stored(3, o + 192, kLine);
}

#endif

// One choice per number type and network: two would round differently.
struct Choice {
    Product product;
    bool tiles;
};

Choice choose(Type type, const Processor& p) {
#ifdef CAROUSEL_X86
    if (type == kFloat32 && p.avx512) return {product_float32_512, false};
    if (type == kBFloat16 && p.amx_bf16) return {product_bfloat16_amx, true};
    if (type == kBFloat16 && p.bf16) return {product_bfloat16_512, false};
    if (type == kInt8 && p.amx_int8) return {product_int8_amx, true};
    if (type == kInt8 && p.vnni) return {product_int8_512, false};
#endif
    return {type == kFloat32 ? product_float32 : type == kBFloat16 ? product_bfloat16 : product_int8, false};
}

// Item i of a job, with the tiles set up around it where the product needs them.
template <typename F>
void for_items(Pool& pool, const Choice& choice, int count, const F& item) {
#ifdef CAROUSEL_X86
    if (choice.tiles) {
        pool.run(count, [&](int i) {
            Tiles tiles;
            item(i);
        });
        return;
    }
#endif
    pool.run(count, item);
}

// out[r][n] = add[r][n] + sums, dequantised. add may be out itself.
CLONES void finish(const Matrix& m, int group, const Rows& x, int first, int rows, const void* sums, const float* add,
                   int add_stride, float* out) {
    for (int r = 0; r < rows; ++r) {
        const float* a = add + size_t(r) * add_stride;
        float* o = out + size_t(r) * kGroup;
        if (m.type == kInt8) {
            const float scale = x.scale.get()[first + r];
            const auto* s = static_cast<const int32_t*>(sums) + r * kGroup;
            const float* w = m.scale.data() + size_t(group) * kGroup;
            for (int n = 0; n < kGroup; ++n) o[n] = a[n] + float(s[n]) * (scale * w[n]);
        } else {
            const auto* s = static_cast<const float*>(sums) + r * kGroup;
            for (int n = 0; n < kGroup; ++n) o[n] = a[n] + s[n];
        }
    }
}

}  // namespace
