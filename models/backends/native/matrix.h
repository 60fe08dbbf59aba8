// Packed matrices, and activations in the form that a matrix wants them.
//
// Layout of a packed matrix. Outputs come in groups of 64. A group is a run of 256-byte lines; a line holds, for each of
// its 64 outputs, the next 32 bits of weights: one float32, two bfloat16 or four int8. AVX-512 reads a line as four
// registers, AMX reads sixteen lines as four tiles of 16 outputs. For an LSTM layer the outputs are ordered so that a
// group is the four gates i, f, g, o of 16 units, and a unit's cell is updated where its gates are computed.
#pragma once

#include "numbers.h"
#include "pool.h"

namespace {

struct Matrix {
    Type type;
    int outputs, inputs;     // as given
    int groups, lines;       // as stored; lines are padded to whole AMX tiles
    Buffer<char> data;       // groups x lines x 256 bytes
    std::vector<float> scale;      // int8: per output, padded
    std::vector<int32_t> sums;     // int8: sum of each output's weights, for unsigned activations
    const char* group(int g) const { return data.get() + size_t(g) * lines * kLine; }
    int per_line() const { return type == kFloat32 ? 1 : type == kBFloat16 ? 2 : 4; }
    int padded_inputs() const { return lines * per_line(); }
    size_t bytes() const { return size_t(groups) * lines * kLine + scale.size() * 4; }
};

// The gate row of each packed output of an LSTM layer, -1 for padding.
std::vector<int32_t> gate_order(int hidden) {
    std::vector<int32_t> order((hidden + kUnits - 1) / kUnits * kGroup);
    for (int n = 0; n < int(order.size()); ++n) {
        const int unit = n / kGroup * kUnits + n % kUnits;
        order[n] = unit < hidden ? n % kGroup / kUnits * hidden + unit : -1;
    }
    return order;
}

std::vector<int32_t> in_order(int outputs) {
    std::vector<int32_t> order(outputs);
    std::iota(order.begin(), order.end(), 0);
    return order;
}

// row: the weights of output n. column: where its first 32 bits go.
void pack_output(Matrix& m, int n, const float* row, char* column) {
    if (m.type == kFloat32) {
        for (int k = 0; k < m.inputs; ++k) std::memcpy(column + size_t(k) * kLine, &row[k], 4);
        return;
    }
    if (m.type == kBFloat16) {
        for (int k = 0; k < m.inputs; ++k) {
            const uint16_t value = to_bfloat16(row[k]);
            std::memcpy(column + size_t(k / 2) * kLine + k % 2 * 2, &value, 2);
        }
        return;
    }
    float largest = 0.0f;
    for (int k = 0; k < m.inputs; ++k) largest = std::max(largest, std::fabs(row[k]));
    const float scale = largest > 0 ? largest / 127.0f : 1.0f;
    m.scale[n] = scale;
    for (int k = 0; k < m.inputs; ++k) {
        const int value = std::min(127, std::max(-127, int(std::nearbyint(row[k] / scale))));
        column[size_t(k / 4) * kLine + k % 4] = char(value);
        m.sums[n] += value;
    }
}

// Returns where the lines go. What m held is lost.
char* shape(Matrix& m, Type type, int inputs, int outputs) {
    m.type = type;
    m.outputs = outputs;
    m.inputs = inputs;
    m.groups = (outputs + kGroup - 1) / kGroup;
    const int lines = (inputs + m.per_line() - 1) / m.per_line();
    m.lines = type == kFloat32 ? lines : (lines + kTileRows - 1) / kTileRows * kTileRows;
    return m.data.reserve(size_t(m.groups) * m.lines * kLine);
}

// weights: (rows, inputs). order[i]: the row that output i is, or -1 for padding.
void pack(Matrix& m, const float* weights, const std::vector<int32_t>& order, int inputs, Type type, Pool& pool) {
    const int outputs = int(order.size());
    char* data = shape(m, type, inputs, outputs);
    if (type == kInt8) {
        m.scale.assign(size_t(m.groups) * kGroup, 0.0f);
        m.sums.assign(size_t(m.groups) * kGroup, 0);
    }
    pool.run(m.groups, [&](int group) {
        char* first = data + size_t(group) * m.lines * kLine;
        std::memset(first, 0, size_t(m.lines) * kLine);
        for (int n = group * kGroup; n < std::min(outputs, (group + 1) * kGroup); ++n)
            if (order[n] >= 0) pack_output(m, n, weights + size_t(order[n]) * inputs, first + n % kGroup * 4);
    });
}

// Activations as a matrix wants them: rows of `stride` bytes, padded with zeros to whole lines; int8: a scale per row.
struct Rows {
    Buffer<char> data;
    Buffer<float> scale;
    int stride = 0;
    char* row(int r) const { return data.get() + size_t(r) * stride; }

    void prepare(int count, const Matrix& m) {
        const int wanted = m.padded_inputs() * (m.type == kFloat32 ? 4 : m.type == kBFloat16 ? 2 : 1);
        const int padded = count + kTileRows;  // a tile may begin at any row
        data.reserve(size_t(padded) * wanted);
        scale.reserve(padded);
        stride = wanted;
    }

    void swap(int a, int b) {
        std::swap_ranges(row(a), row(a) + stride, row(b));
        std::swap(scale.get()[a], scale.get()[b]);
    }
};

// One row in int8: the largest magnitude becomes 127. Returns the scale.
CLONES float quantize(const float* x, int n, int8_t* out) {
    float largest = 0.0f;
    for (int k = 0; k < n; ++k) largest = std::max(largest, std::fabs(x[k]));
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (int k = 0; k < n; ++k) {
        // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low byte.
        out[k] = int8_t(float_to_bits(x[k] * inverse + 12582912.0f) & 0xff);
    }
    return largest / 127.0f;
}

#ifdef CAROUSEL_X86
TARGET_512 float quantize_512(const float* x, int n, int8_t* out) {
    __m512 most = _mm512_setzero_ps();
    for (int k = 0; k < n; k += 16)
        most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes(n - k), x + k)));
    const float largest = _mm512_reduce_max_ps(most);
    const __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
    for (int k = 0; k < n; k += 16) {
        const __mmask16 real = lanes(n - k);
        const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(real, x + k), inverse));
        _mm_mask_storeu_epi8(out + k, real, _mm512_cvtepi32_epi8(value));
    }
    return largest / 127.0f;
}
#endif

CLONES void round_to_bfloat16(const float* x, int n, uint16_t* out) {
    for (int k = 0; k < n; ++k) out[k] = to_bfloat16(x[k]);
}

void set_row(const Processor& processor, Rows& rows, int r, const float* x, const Matrix& m) {
    char* out = rows.row(r);
    const int n = m.inputs;
    size_t written = size_t(n) * 4;
    if (m.type == kFloat32) {
        std::memcpy(out, x, written);
    } else if (m.type == kBFloat16) {
        round_to_bfloat16(x, n, reinterpret_cast<uint16_t*>(out));
        written = size_t(n) * 2;
    } else {
        auto* values = reinterpret_cast<int8_t*>(out);
#ifdef CAROUSEL_X86
        rows.scale.get()[r] = processor.avx512 ? quantize_512(x, n, values) : quantize(x, n, values);
#else
        rows.scale.get()[r] = quantize(x, n, values);
#endif
        written = size_t(n);
    }
    std::memset(out + written, 0, rows.stride - written);
}

}  // namespace
