// Large products of bfloat16 matrices, as training has them, with sums in float32; and the gradient of a softmax. For
// processors that have AVX-512 bfloat16. uint16_t stands for bfloat16; matrices are row-major.
//
// A right-hand matrix (K, N) is packed as in matrix.h: groups of 64 columns, a line of a group holding two rows, k and
// k + 1, of each. A left-hand matrix is read as it is, or, where its transpose is wanted, packed likewise, 64 columns
// at a time. Every sum is made in one order, whatever the number of threads.
#pragma once

#include "../../models/backends/native/matrix.h"

#ifdef CAROUSEL_X86

namespace {

constexpr int kDepth = 1024;     // of the sums made at a time: 128 KB of a group, which the second-level cache holds
constexpr int kBlockRows = 128;  // rows of the result that share what was read of the right-hand matrix, at most
constexpr int kFewRows = 16;     // whose sums the first-level cache holds beside the rest
constexpr int kPanel = 8;        // groups that share what was read of the left-hand matrix

// Sixteen values, from memory and back, rounded where it holds bfloat16: those of the lanes that are there, or all, which
// takes half the time or less.
struct All {};

TARGET_BF16 INLINE __m512 load(All, const float* from) { return _mm512_loadu_ps(from); }
TARGET_BF16 INLINE __m512 load(__mmask16 there, const float* from) { return _mm512_maskz_loadu_ps(there, from); }

TARGET_BF16 INLINE __m512 widened(__m256i values) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}
TARGET_BF16 INLINE __m512 load(All, const uint16_t* from) {
    return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
TARGET_BF16 INLINE __m512 load(__mmask16 there, const uint16_t* from) {
    return widened(_mm256_maskz_loadu_epi16(there, from));
}

TARGET_BF16 INLINE void store(float* to, All, __m512 values) { _mm512_storeu_ps(to, values); }
TARGET_BF16 INLINE void store(float* to, __mmask16 there, __m512 values) { _mm512_mask_storeu_ps(to, there, values); }
TARGET_BF16 INLINE void store(uint16_t* to, All, __m512 values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(values));
}
TARGET_BF16 INLINE void store(uint16_t* to, __mmask16 there, __m512 values) {
    _mm256_mask_storeu_epi16(to, there, (__m256i)_mm512_cvtneps_pbh(values));
}

TARGET_BF16 INLINE __m512 where(All, __m512 values, __m512) { return values; }
TARGET_BF16 INLINE __m512 where(__mmask16 there, __m512 values, __m512 otherwise) {
    return _mm512_mask_mov_ps(otherwise, there, values);
}

// use(the first of sixteen values, the lanes that are there), for `count` of them.
template <typename F>
TARGET_BF16 INLINE void for_sixteens(int count, const F& use) {
    int n = 0;
    for (; n + 16 <= count; n += 16) use(n, All{});
    if (n < count) use(n, lanes(count - n));
}

// A group of a matrix: `count` rows, `stride` apart, of `columns` values, at most 64. column_sums: null, or (64), to which
// the sums of the columns are added.
TARGET_BF16 void pack_rows(const uint16_t* from, size_t stride, int count, int columns, char* lines,
                           float* column_sums) {
    constexpr int kPieces = kGroup / 16, kAhead = 24;  // rows; each is in a page of its own
    __mmask16 there[kPieces];
    __m512 sums[kPieces];
    for (int j = 0; j < kPieces; ++j) {
        there[j] = lanes(columns - 16 * j);
        sums[j] = _mm512_setzero_ps();
    }
    for (int k = 0; k < count; k += 2, lines += kLine)
        for (int j = 0; j < kPieces; ++j) {
            const uint16_t* at = from + k * stride + 16 * j;
            if (j % 2 == 0 && k + kAhead + 1 < count) {
                _mm_prefetch(at + kAhead * stride, _MM_HINT_T0);
                _mm_prefetch(at + (kAhead + 1) * stride, _MM_HINT_T0);
            }
            const __m512 even = load(there[j], at);
            const __m512 odd = k + 1 < count ? load(there[j], at + stride) : _mm512_setzero_ps();
            const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(even), 16);
            _mm512_store_si512(lines + 64 * j, _mm512_or_si512(low, _mm512_castps_si512(odd)));
            sums[j] = _mm512_add_ps(sums[j], _mm512_add_ps(even, odd));
        }
    if (!column_sums) return;
    for (int j = 0; j < kPieces; ++j) {
        float* to = column_sums + 16 * j;
        _mm512_mask_storeu_ps(to, there[j], _mm512_add_ps(sums[j], _mm512_maskz_loadu_ps(there[j], to)));
    }
}

// A group of a matrix that is given transposed: `columns` rows, at most 64, of `inputs` values each.
TARGET_BF16 void pack_columns(const uint16_t* from, int inputs, int columns, char* lines) {
    const __m512i each = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i places = _mm512_mullo_epi32(each, _mm512_set1_epi32(inputs * 2));
    for (int j = 0; j < kGroup / 16; ++j) {
        const __mmask16 there = lanes(columns - 16 * j);
        const auto* pairs = reinterpret_cast<const char*>(from + size_t(16 * j) * inputs);
        for (int k = 0; k + 1 < inputs; k += 2)
            _mm512_store_si512(lines + size_t(k / 2) * kLine + 64 * j,
                               _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), there, places, pairs + 2 * k, 1));
    }
    if (inputs % 2 == 0) return;
    for (int n = 0; n < kGroup; ++n) {
        const uint32_t last = n < columns ? from[size_t(n + 1) * inputs - 1] : 0;
        std::memcpy(lines + size_t(inputs / 2) * kLine + 4 * n, &last, 4);
    }
}

// A left-hand matrix: row r is at values + r * row, its values k, k + 1 at k / 2 * step from there.
struct Left {
    const char* values;
    size_t row, step;
    Left at(int r, int k) const { return {values + r * row + k / 2 * step, row, step}; }
};

// R rows by 16 J columns in registers, over `depth` values of each. sums: (R, 64), made, or added to where there are
// some already.
template <int R, int J>
TARGET_BF16 INLINE void tile(Left a, const char* line, int depth, bool more, float* sums) {
    __m512 total[R][J];
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < J; ++j)
            total[r][j] = more ? _mm512_load_ps(sums + r * kGroup + 16 * j) : _mm512_setzero_ps();
    const auto add = [&](size_t bytes) INLINE_BF16 {
        __m512bh w[J];
        for (int j = 0; j < J; ++j) w[j] = (__m512bh)_mm512_load_si512(line + 64 * j);
        for (int r = 0; r < R; ++r) {
            int32_t pair = 0;
            std::memcpy(&pair, a.values + r * a.row, bytes);
            const auto value = (__m512bh)_mm512_set1_epi32(pair);
            for (int j = 0; j < J; ++j) total[r][j] = _mm512_dpbf16_ps(total[r][j], value, w[j]);
        }
    };
    for (int k = 0; k + 1 < depth; k += 2, a.values += a.step, line += kLine) add(4);
    if (depth % 2) add(2);  // what comes next is not of this row
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < J; ++j) _mm512_store_ps(sums + r * kGroup + 16 * j, total[r][j]);
}

// As many rows at once as keep sixteen sums in registers, or twelve.
template <int R, int J>
TARGET_BF16 void tiles(int rows, Left a, const char* lines, int depth, bool more, float* sums) {
    int r = 0;
    for (; r + R <= rows; r += R) tile<R, J>(a.at(r, 0), lines, depth, more, sums + r * kGroup);
    for (; r < rows; ++r) tile<1, J>(a.at(r, 0), lines, depth, more, sums + r * kGroup);
}

auto tiles_for(int columns) -> decltype(&tiles<4, 4>) {
    return columns > 48 ? tiles<4, 4> : columns > 32 ? tiles<4, 3> : columns > 16 ? tiles<8, 2> : tiles<16, 1>;
}

// Memory of this thread's own, kept until it ends. What was in it is lost.
template <typename T>
T* scratch(size_t count) {
    thread_local Buffer<T> buffer;
    return buffer.reserve(count);
}

size_t packed_bytes(int inputs, int outputs) {
    return size_t((outputs + kGroup - 1) / kGroup) * ((inputs + 1) / 2) * kLine;
}

// from: (inputs, outputs), or, transposed, (outputs, inputs). to: packed_bytes, aligned to 64.
void pack_right(Pool& pool, int inputs, int outputs, const uint16_t* from, bool transposed, char* to) {
    const size_t size = packed_bytes(inputs, kGroup);
    pool.run((outputs + kGroup - 1) / kGroup, [&](int group) {
        const int first = group * kGroup, columns = std::min(kGroup, outputs - first);
        if (transposed) pack_columns(from + size_t(first) * inputs, inputs, columns, to + group * size);
        else pack_rows(from + first, outputs, inputs, columns, to + group * size, nullptr);
    });
}

// Asks for the lines that `count` values lie in: they are here by the time that products have been made.
template <typename T>
void fetch(const T* values, int count) {
    for (int n = 0; n < count; n += 64 / int(sizeof(T))) _mm_prefetch(values + n, _MM_HINT_T1);
    _mm_prefetch(values + count - 1, _MM_HINT_T1);
}

TARGET_BF16 void give(int rows, int columns, const float* sums, const float* bias, uint16_t* out, size_t stride) {
    for_sixteens(columns, [&](int n, auto there) INLINE_BF16 {
        const __m512 add = bias ? load(there, bias + n) : _mm512_setzero_ps();
        for (int r = 0; r < rows; ++r)
            store(out + r * stride + n, there, _mm512_add_ps(_mm512_load_ps(sums + r * kGroup + n), add));
    });
}

// out: (rows, outputs) = a: (rows, inputs) times b: packed, and bias: (outputs), or null.
void multiply(Pool& pool, int rows, int outputs, int inputs, const uint16_t* a, const char* b,
              const float* bias, uint16_t* out) {
    if (rows == 0) return;
    const int groups = (outputs + kGroup - 1) / kGroup, panels = (groups + kPanel - 1) / kPanel;
    // Blocks of one size, as many for each thread.
    const int threads = pool.threads();
    const int wanted = (rows + kBlockRows * threads - 1) / (kBlockRows * threads) * threads;
    const int block = ((rows + wanted - 1) / wanted + 7) / 8 * 8, blocks = (rows + block - 1) / block;
    const size_t size = packed_bytes(inputs, kGroup), held = inputs > kDepth ? size_t(block) * kGroup : 0;
    const Left left{reinterpret_cast<const char*>(a), size_t(inputs) * 2, 4};
    pool.run(blocks * panels, [&](int item) {
        float* sums = scratch<float>(size_t(kPanel) * kBlockRows * kGroup);
        const int first = item % blocks * block, count = std::min(block, rows - first);
        const int start = item / blocks * kPanel, end = std::min(groups, start + kPanel);
        for (int k = 0; k < inputs; k += kDepth) {
            const int depth = std::min(kDepth, inputs - k);
            for (int group = start; group < end; ++group) {
                const int columns = std::min(kGroup, outputs - group * kGroup);
                const char* lines = b + group * size + size_t(k / 2) * kLine;
                uint16_t* to = out + size_t(first) * outputs + group * kGroup;
                if (k + depth == inputs)
                    for (int r = 0; r < count; ++r) fetch(to + size_t(r) * outputs, columns);
                for (int r = 0; r < count; r += kFewRows) {
                    const int few = std::min(kFewRows, count - r);
                    float* made = sums + (held ? held * (group - start) + r * kGroup : 0);
                    tiles_for(columns)(few, left.at(first + r, k), lines, depth, k > 0, made);
                    if (k + depth == inputs)
                        give(few, columns, made, bias ? bias + group * kGroup : nullptr, to + size_t(r) * outputs, outputs);
                }
            }
        }
    });
}

// more: whether `out` is added to, or made.
TARGET_BF16 void put(int rows, int columns, const float* sums, bool more, float* out, size_t stride) {
    for (int r = 0; r < rows; ++r)
        for_sixteens(columns, [&](int n, auto there) INLINE_BF16 {
            float* to = out + r * stride + n;
            const __m512 sum = _mm512_load_ps(sums + r * kGroup + n);
            store(to, there, more ? _mm512_add_ps(load(there, to), sum) : sum);
        });
}

// out: (rows, outputs) = the transpose of a: (inputs, rows), times b: (inputs, outputs), packed; added to what is there
// where there is `more`. column_sums: null, or (rows), likewise the sums of a's columns.
void multiply_transposed(Pool& pool, int rows, int outputs, int inputs, const uint16_t* a, const char* b, bool more,
                         float* out, float* column_sums) {
    const int groups = (outputs + kGroup - 1) / kGroup;
    const size_t size = packed_bytes(inputs, kGroup);
    pool.run((rows + kGroup - 1) / kGroup, [&](int item) {
        char* left = scratch<char>(packed_bytes(kDepth, kGroup));
        alignas(64) float sums[kGroup * kGroup];
        const int first = item * kGroup, count = std::min(kGroup, rows - first);
        if (column_sums && !more) std::memset(column_sums + first, 0, size_t(count) * 4);
        for (int k = 0; k < inputs; k += kDepth) {
            const int depth = std::min(kDepth, inputs - k);
            pack_rows(a + size_t(k) * rows + first, rows, depth, count, left,
                      column_sums ? column_sums + first : nullptr);
            // What is packed next is asked for meanwhile, as much with each group.
            const bool within = k + depth < inputs;
            const int next_k = within ? k + depth : 0, next_first = within ? first : std::min(first + kGroup, rows - 1);
            const int next_depth = std::min(kDepth, inputs - next_k), next_count = std::min(kGroup, rows - next_first);
            for (int group = 0; group < groups; ++group) {
                const int columns = std::min(kGroup, outputs - group * kGroup);
                float* to = out + size_t(first) * outputs + group * kGroup;
                for (int r = 0; r < count; ++r) fetch(to + size_t(r) * outputs, columns);
                for (int d = next_depth * group / groups; d < next_depth * (group + 1) / groups; ++d)
                    fetch(a + size_t(next_k + d) * rows + next_first, next_count);
                tiles_for(columns)(count, {left, 4, kLine}, b + group * size + size_t(k / 2) * kLine, depth, false, sums);
                put(count, columns, sums, more || k > 0, to, outputs);
            }
        }
    });
}

// One row of logits: becomes softmax - onehot. Returns the nats of the target. One that is not a number makes all so, as
// does one that is infinite, or all being minus that.
TARGET_BF16 float softmax_gradient_row(int count, uint16_t* logits, int64_t target) {
    constexpr float kLeast = -126.0f;
    float* powers = scratch<float>(count + 16);
    __m512 most = _mm512_set1_ps(-INFINITY);
    for_sixteens(count, [&](int n, auto there) INLINE_BF16 {
        most = where(there, _mm512_max_ps(most, load(there, logits + n)), most);
    });
    const float largest = _mm512_reduce_max_ps(most), right = bits_to_float(uint32_t(logits[target]) << 16) - largest;
    __m512 total = _mm512_setzero_ps();
    for_sixteens(count, [&](int n, auto there) INLINE_BF16 {
        const __m512 below = _mm512_sub_ps(load(there, logits + n), _mm512_set1_ps(largest));  // exact near the largest
        const __m512 x = _mm512_mul_ps(below, _mm512_set1_ps(kLog2E));
        const __m512 power = exp2_512(_mm512_max_ps(_mm512_set1_ps(kLeast), x));  // of the two, x stays if not a number
        total = where(there, _mm512_add_ps(total, power), total);
        _mm512_storeu_ps(powers + n, power);
    });
    const float sum = _mm512_reduce_add_ps(total), scale = 1.0f / sum;
    for_sixteens(count, [&](int n, auto there) INLINE_BF16 {
        store(logits + n, there, _mm512_mul_ps(_mm512_loadu_ps(powers + n), _mm512_set1_ps(scale)));
    });
    logits[target] = to_bfloat16(powers[target] * scale - 1.0f);
    return std::log(sum) - right;
}

// logits: (rows, outputs), become softmax - onehot, with the targets: (rows). nats: (rows), out.
void softmax_gradient(Pool& pool, int rows, int outputs, uint16_t* logits, const int64_t* targets, float* nats) {
    pool.run((rows + kFewRows - 1) / kFewRows, [&](int item) {
        for (int row = item * kFewRows; row < std::min(rows, (item + 1) * kFewRows); ++row)
            nats[row] = softmax_gradient_row(outputs, logits + size_t(row) * outputs, targets[row]);
    });
}

}  // namespace

#endif
