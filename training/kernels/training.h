// An LSTM layer as training needs it: a window of tokens forward, what the way back needs kept, and the way back. What
// does not follow from token to token, the products with the inputs and those for the weights' gradients, is in
// multiply.h.
//
// Products are of bfloat16, sums and cells float32; what is kept is bfloat16. For processors that have AVX-512 bfloat16.
#pragma once

#include <mutex>

#include "multiply.h"
#include "../../models/backends/native/products.h"

#ifdef CAROUSEL_X86

namespace {

// 1 / (1 + 2^x). What is not a number stays so: training that has gone wrong is to be seen.
TARGET_BF16 INLINE __m512 logistic(__m512 x) {
    // Not infinite, which the next step would make no number; of the two, x stays if it is none.
    const __m512 power = exp2_512(_mm512_min_ps(_mm512_set1_ps(126.0f), x));
    const __m512 d = _mm512_add_ps(_mm512_set1_ps(1.0f), power);
    const __m512 guess = _mm512_rcp14_ps(d);  // one step of Newton's method makes 14 bits 24
    return _mm512_mul_ps(guess, _mm512_fnmadd_ps(d, guess, _mm512_set1_ps(2.0f)));
}

TARGET_BF16 INLINE __m512 sigmoid_512(__m512 x) { return logistic(_mm512_mul_ps(x, _mm512_set1_ps(-kLog2E))); }
TARGET_BF16 INLINE __m512 tanh_512(__m512 x) {
    const __m512 half = logistic(_mm512_mul_ps(x, _mm512_set1_ps(-2.0f * kLog2E)));
    return _mm512_fmsub_ps(_mm512_set1_ps(2.0f), half, _mm512_set1_ps(1.0f));
}

// Sixteen units of one row, one token, or those that are there. products: (64), what h contributes to their gates. bias,
// gates: of the first unit's gate i, the next gate H further on; gates, in: what the inputs contribute, out: activations.
// c: goes on. cells: c, rounded, out. h, h_again: out.
template <typename Lanes>
TARGET_BF16 INLINE void cell_forward(Lanes there, int hidden, const float* products, const float* bias, uint16_t* gates,
                                     float* c, uint16_t* cells, uint16_t* h, uint16_t* h_again) {
    const auto before = [&](int gate) INLINE_BF16 {
        const __m512 sum = _mm512_add_ps(_mm512_load_ps(products + gate * kUnits), load(there, bias + gate * hidden));
        return _mm512_add_ps(load(there, gates + gate * hidden), sum);
    };
    const __m512 i = sigmoid_512(before(0)), f = sigmoid_512(before(1));
    const __m512 g = tanh_512(before(2)), o = sigmoid_512(before(3));
    const __m512 next = _mm512_fmadd_ps(f, load(there, c), _mm512_mul_ps(i, g));
    store(gates, there, i);
    store(gates + hidden, there, f);
    store(gates + 2 * hidden, there, g);
    store(gates + 3 * hidden, there, o);
    store(c, there, next);
    store(cells, there, next);
    const __m512 out = _mm512_mul_ps(o, tanh_512(next));
    store(h, there, out);
    store(h_again, there, out);
}

// The same backwards. from_later, from_output: the gradients of h by the next token and by what it gave. cells, before: c
// of this token and of the one before. from_cell, in: c's gradient by the next token, out: of the c before. gates, in:
// activations; out, and gates_again: gradients of what went into them.
template <typename Lanes>
TARGET_BF16 INLINE void cell_backward(Lanes there, int hidden, const float* from_later, const uint16_t* from_output,
                                      const uint16_t* cells, const uint16_t* before, float* from_cell, uint16_t* gates,
                                      uint16_t* gates_again) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 i = load(there, gates), f = load(there, gates + hidden);
    const __m512 g = load(there, gates + 2 * hidden), o = load(there, gates + 3 * hidden);
    const __m512 dh = _mm512_add_ps(load(there, from_later), load(there, from_output));
    const __m512 shown = tanh_512(load(there, cells));
    const __m512 dc = _mm512_fmadd_ps(_mm512_mul_ps(dh, o), _mm512_fnmadd_ps(shown, shown, one),
                                      load(there, from_cell));
    const auto give = [&](int gate, __m512 gradient) INLINE_BF16 {
        store(gates + gate * hidden, there, gradient);
        store(gates_again + gate * hidden, there, gradient);
    };
    give(0, _mm512_mul_ps(_mm512_mul_ps(dc, g), _mm512_fnmadd_ps(i, i, i)));
    give(1, _mm512_mul_ps(_mm512_mul_ps(dc, load(there, before)), _mm512_fnmadd_ps(f, f, f)));
    give(2, _mm512_mul_ps(_mm512_mul_ps(dc, i), _mm512_fnmadd_ps(g, g, one)));
    give(3, _mm512_mul_ps(_mm512_mul_ps(dh, shown), _mm512_fnmadd_ps(o, o, o)));
    store(from_cell, there, _mm512_mul_ps(dc, f));
}

// As `pack`, of weights: (inputs, outputs), float32, into bfloat16.
TARGET_BF16 void pack_transposed_group(const float* from, int inputs, int outputs, int columns, char* lines) {
    for (int k = 0; k < inputs; k += 2, lines += kLine)
        for_sixteens(columns, [&](int n, auto there) INLINE_BF16 {
            const float* at = from + size_t(k) * outputs + n;
            const auto pair = [](__m512 values) INLINE_BF16 { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(values)); };
            __m512i both = pair(load(there, at));
            if (k + 1 < inputs) both = _mm512_or_si512(both, _mm512_slli_epi32(pair(load(there, at + outputs)), 16));
            _mm512_store_si512(lines + 4 * n, both);
        });
}

void pack_transposed(Matrix& m, const float* weights, int inputs, int outputs, Pool& pool) {
    char* data = shape(m, kBFloat16, inputs, outputs);
    pool.run(m.groups, [&](int group) {
        char* lines = data + size_t(group) * m.lines * kLine;
        const int first = group * kGroup, columns = std::min(kGroup, outputs - first);
        std::memset(lines, 0, size_t(m.lines) * kLine);
        pack_transposed_group(weights + first, inputs, outputs, columns, lines);
    });
}

// The threads and the memory that training runs with, one window or product at a time. Tensors are contiguous; uint16_t
// stands for bfloat16.
class TrainingWorkspace {
  public:
    TrainingWorkspace(int threads, const Processor& p) : choice_(choose(kBFloat16, p)), pool_(threads) {}

    template <typename F>
    void run(const F& job) {
        const std::lock_guard<std::mutex> alone(mutex_);
        job(pool_);
    }

    // weights: (4H, H). bias: (4H). gates: (T, B, 4H), in: what the inputs contribute, out: activations. h, cells:
    // (T + 1, B, H), the first of them what was before the window. c: (B, H), float32, before and after the window.
    void forward(int tokens, int batch, int hidden, const float* weights, const float* bias, uint16_t* gates, uint16_t* h,
                 float* c, uint16_t* cells) {
        const std::lock_guard<std::mutex> alone(mutex_);
        pack(matrix_, weights, gate_order(hidden), hidden, kBFloat16, pool_);
        for (Rows& rows : rows_) clear(rows, batch);
        for (int b = 0; b < batch; ++b) std::memcpy(rows_[0].row(b), h + size_t(b) * hidden, size_t(hidden) * 2);
        round_to_bfloat16(c, batch * hidden, cells);
        const size_t size = size_t(batch) * hidden;
        for (int t = 0; t < tokens; ++t) {
            const Rows &now = rows_[t & 1], &next = rows_[~t & 1];
            const auto ahead = [&](int group, int row) {
                const uint16_t* at = gates + 4 * (t * size + size_t(row) * hidden) + group * kUnits;
                for (int gate = 0; gate < 4; ++gate) fetch(at + gate * hidden, kUnits);
            };
            for_blocks(now, batch, ahead, [&](int group, int first, int count, const float* products) TARGET_BF16 {
                const int unit = group * kUnits;
                for_sixteens(std::min(kUnits, hidden - unit), [&](int, auto there) INLINE_BF16 {
                    for (int r = 0; r < count; ++r) {
                        const size_t at = size_t(first + r) * hidden + unit, to = (size_t(t) + 1) * size + at;
                        cell_forward(there, hidden, products + r * kGroup, bias + unit,
                                     gates + 4 * (t * size + size_t(first + r) * hidden) + unit, c + at, cells + to, h + to,
                                     values(next, first + r) + unit);
                    }
                });
            });
        }
    }

    // weights: as forward. gates, in: activations, out: gradients of what went into them. cells: as above.
    // from_output: (T, B, H), the gradient of h by what it gave. from_h, from_c: (B, H), the gradients of the last h and
    // c, out: of the first.
    void backward(int tokens, int batch, int hidden, const float* weights, uint16_t* gates, const uint16_t* cells,
                  const uint16_t* from_output, float* from_h, float* from_c) {
        const std::lock_guard<std::mutex> alone(mutex_);
        pack_transposed(matrix_, weights, 4 * hidden, hidden, pool_);
        for (Rows& rows : rows_) clear(rows, batch);
        const size_t size = size_t(batch) * hidden;
        for (int t = tokens - 1; t >= 0; --t) {
            const Rows &later = rows_[~t & 1], &now = rows_[t & 1];
            const auto sixteen = [&](int unit, auto there, int row, const float* from_later) INLINE_BF16 {
                const size_t at = size_t(row) * hidden + unit, kept = t * size + at;
                cell_backward(there, hidden, from_later, from_output + kept, cells + kept + size, cells + kept, from_c + at,
                              gates + 4 * (t * size + size_t(row) * hidden) + unit, values(now, row) + unit);
            };
            if (t == tokens - 1) {
                pool_.run(batch, [&](int row) TARGET_BF16 {
                    for_sixteens(hidden, [&](int unit, auto there) INLINE_BF16 {
                        sixteen(unit, there, row, from_h + size_t(row) * hidden + unit);
                    });
                });
                continue;
            }
            const auto ahead = [&](int group, int row) {
                const size_t at = size_t(row) * hidden + group * kGroup, kept = t * size + at;
                for (int gate = 0; gate < 4; ++gate)
                    fetch(gates + 4 * (t * size + size_t(row) * hidden) + gate * hidden + group * kGroup, kGroup);
                for (const uint16_t* from : {from_output + kept, cells + kept, cells + kept + size}) fetch(from, kGroup);
            };
            for_blocks(later, batch, ahead, [&](int group, int first, int count, const float* products) TARGET_BF16 {
                for_sixteens(std::min(kGroup, hidden - group * kGroup), [&](int n, auto there) INLINE_BF16 {
                    for (int r = 0; r < count; ++r) sixteen(group * kGroup + n, there, first + r, products + r * kGroup + n);
                });
            });
        }
        for_blocks(rows_[0], batch, [](int, int) {}, [&](int group, int first, int count, const float* products) {
            const int width = std::min(kGroup, hidden - group * kGroup);
            for (int r = 0; r < count; ++r)
                std::memcpy(from_h + size_t(first + r) * hidden + group * kGroup, products + r * kGroup, size_t(width) * 4);
        });
    }

  private:
    static constexpr int kBlock = 2 * kTileRows;  // rows of an item: enough of them to share, few enough to use a group

    static uint16_t* values(const Rows& rows, int r) { return reinterpret_cast<uint16_t*>(rows.row(r)); }

    void clear(Rows& rows, int batch) {
        rows.prepare(batch, matrix_);
        std::memset(rows.row(0), 0, size_t(batch) * rows.stride);
    }

    // use(group, first row, rows, products (rows, 64)), for the products of all rows of x with all groups; before it,
    // ahead(group, row) for each of the rows.
    template <typename A, typename F>
    void for_blocks(const Rows& x, int batch, const A& ahead, const F& use) {
        const int blocks = (batch + kBlock - 1) / kBlock;
        for_items(pool_, choice_, matrix_.groups * blocks, [&](int item) {
            alignas(64) float products[kTileRows * kGroup];
            const int group = item / blocks, end = std::min(batch, (item % blocks + 1) * kBlock);
            for (int first = item % blocks * kBlock; first < end; first += kTileRows) {
                const int count = std::min(kTileRows, end - first);
                for (int r = 0; r < count; ++r) ahead(group, first + r);
                choice_.product(matrix_, group, x, first, count, products, nullptr);
                use(group, first, count, products);
            }
        });
    }

    const Choice choice_;
    Pool pool_;
    std::mutex mutex_;
    Matrix matrix_;
    Rows rows_[2];
};

}  // namespace

#endif
