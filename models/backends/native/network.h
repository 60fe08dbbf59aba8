// The network: its layers, and the passes through them that every kind of work is made of.
#pragma once

#include "products.h"

namespace {

struct Layer {
    int inputs, hidden, padded;  // padded: units of whole groups
    Matrix from_input, from_hidden;
    std::vector<float> bias;  // in the order of the packed outputs
    Rows hiddens;             // h, as from_hidden and the next layer's from_input want it
    Buffer<float> h, c;       // (B, padded)
};

struct Linear {
    std::optional<Matrix> matrix;
    std::vector<float> bias;
};

// What one group of 64 outputs contributes to the score of one row: the largest logit, the sum of exp(logit - largest),
// and how many logits are above the target's.
struct Share {
    float largest, sum;
    int above;
};

// What one group of 64 outputs contributes to the distribution that one row is drawn from: the largest logit, and the
// sum of exp((logit - largest) / temperature).
struct Mass {
    float largest, sum;
};

struct Network {
    const Type type;
    const Processor processor;
    const Choice choice;
    Pool pool;
    const float* embedding;
    int embedding_size, vocabulary;
    float embedding_scale;
    std::vector<Layer> layers;
    Linear projection, output;  // the projection may have none
    Rows inputs, features;
    Buffer<float> x, y, gates, logits, target_logits;
    Buffer<Share> shares;
    Buffer<Mass> masses;

    Network(Type t, int threads, const Processor& p) : type(t), processor(p), choice(choose(t, p)), pool(threads) {}

    int state_size() const {
        int size = 0;
        for (const Layer& layer : layers) size += 2 * layer.hidden;
        return size;
    }
    int feature_size() const { return projection.matrix ? projection.matrix->outputs : layers.back().hidden; }
};

void set_rows(Network& net, Rows& rows, const Matrix& m, const float* x, int stride, int count) {
    rows.prepare(count, m);
    constexpr int kChunk = 8;
    net.pool.run((count + kChunk - 1) / kChunk, [&](int i) {
        for (int r = i * kChunk; r < std::min(count, (i + 1) * kChunk); ++r)
            set_row(net.processor, rows, r, x + size_t(r) * stride, m);
    });
}

// The outputs of one group for up to 16 rows: values (rows, 64) = add + products. add may be values itself.
INLINE void group_values(Network& net, const Matrix& m, int g, const Rows& x, int first, int rows, const float* add,
                         int add_stride, float* values) {
    alignas(64) char sums[kTileRows * kLine];
    // The first rows wait for the weights; the next ones have them, and time to fetch those of the group that follows.
    const char* ahead = first / kTileRows == 1 && g + 1 < m.groups ? m.group(g + 1) : nullptr;
    net.choice.product(m, g, x, first, rows, sums, ahead);
    finish(m, g, x, first, rows, sums, add, add_stride, values);
}

// y (count, outputs) = rows x, already set, times the matrix, plus bias.
void linear(Network& net, const Linear& l, const Rows& x, int count, float* y, int y_stride) {
    const Matrix& m = *l.matrix;
    for_items(net.pool, net.choice, m.groups, [&](int g) {
        alignas(64) float values[kTileRows * kGroup];
        const int width = std::min(kGroup, m.outputs - g * kGroup);
        for (int first = 0; first < count; first += kTileRows) {
            const int rows = std::min(kTileRows, count - first);
            group_values(net, m, g, x, first, rows, l.bias.data() + size_t(g) * kGroup, 0, values);
            for (int r = 0; r < rows; ++r)
                std::memcpy(y + size_t(first + r) * y_stride + size_t(g) * kGroup, values + r * kGroup, size_t(width) * 4);
        }
    });
}

// ---- the cell ------------------------------------------------------------------------------------------------------

// The cell of 16 units: gates (64: i, f, g, o) and c in, h and c out (Hochreiter & Schmidhuber 1997; Gers et al. 2000).
CLONES void lstm_cell(const float* gates, float* c, float* h) {
    for (int u = 0; u < kUnits; ++u) {
        const float i = sigmoid_f(gates[u]), f = sigmoid_f(gates[kUnits + u]);
        const float g = tanh_f(gates[2 * kUnits + u]), o = sigmoid_f(gates[3 * kUnits + u]);
        const float next = f * c[u] + i * g;
        c[u] = next;
        h[u] = o * tanh_f(next);
    }
}

#ifdef CAROUSEL_X86
// exp of what a gate's sigmoid (factor -1) or a tanh (factor -2) is made of; beyond e^40 neither changes any more, and
// the product of two of these is still finite.
TARGET_512 INLINE __m512 gate_exp(__m512 x, float factor) {
    const __m512 limit = _mm512_set1_ps(40.0f);
    x = _mm512_mul_ps(x, _mm512_set1_ps(factor));
    return exp_512(_mm512_min_ps(_mm512_max_ps(x, _mm512_sub_ps(_mm512_setzero_ps(), limit)), limit));
}

// sigmoid(a) * tanh(b) in one division, from e^-a and e^-2b.
TARGET_512 INLINE __m512 sigmoid_tanh(__m512 ea, __m512 eb) {
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(_mm512_sub_ps(one, eb), _mm512_mul_ps(_mm512_add_ps(one, ea), _mm512_add_ps(one, eb)));
}

TARGET_512 void lstm_cell_512(const float* gates, float* c, float* h) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 ei = gate_exp(_mm512_loadu_ps(gates), -1.0f);
    const __m512 ef = gate_exp(_mm512_loadu_ps(gates + kUnits), -1.0f);
    const __m512 eg = gate_exp(_mm512_loadu_ps(gates + 2 * kUnits), -2.0f);
    const __m512 eo = gate_exp(_mm512_loadu_ps(gates + 3 * kUnits), -1.0f);
    const __m512 kept = _mm512_div_ps(_mm512_loadu_ps(c), _mm512_add_ps(one, ef));
    const __m512 next = _mm512_add_ps(kept, sigmoid_tanh(ei, eg));
    _mm512_storeu_ps(c, next);
    _mm512_storeu_ps(h, sigmoid_tanh(eo, gate_exp(next, -2.0f)));
}
#endif

// ---- a layer -------------------------------------------------------------------------------------------------------

// One token of each of B rows: h and c of the layer go on. x: the inputs, set as rows from x_first on; or gates, where
// what the inputs contribute is known already: (groups, stride, 64), of which B rows from x_first on.
void step_layer(Network& net, Layer& layer, const Rows* x, int x_first, const float* gates, int gates_stride, int batch) {
    const Matrix &wx = layer.from_input, &wh = layer.from_hidden;
    float *h = layer.h.get(), *c = layer.c.get();
    for_items(net.pool, net.choice, wh.groups, [&](int g) {
        alignas(64) float values[kTileRows * kGroup];
        for (int first = 0; first < batch; first += kTileRows) {
            const int rows = std::min(kTileRows, batch - first);
            const float* add = values;
            if (gates) {
                add = gates + (size_t(g) * gates_stride + x_first + first) * kGroup;
            } else {
                group_values(net, wx, g, *x, x_first + first, rows, layer.bias.data() + size_t(g) * kGroup, 0, values);
            }
            group_values(net, wh, g, layer.hiddens, first, rows, add, kGroup, values);
            for (int r = 0; r < rows; ++r) {
                const size_t at = size_t(first + r) * layer.padded + size_t(g) * kUnits;
#ifdef CAROUSEL_X86
                if (net.processor.avx512) {
                    lstm_cell_512(values + r * kGroup, c + at, h + at);
                    continue;
                }
#endif
                lstm_cell(values + r * kGroup, c + at, h + at);
            }
        }
    });
    set_rows(net, layer.hiddens, wh, h, layer.padded, batch);
}

// Rows from which a layer's inputs gain nothing from being multiplied for several tokens at once.
constexpr int kManyRows = 16;

// Tokens of rows of unequal length, the longest first, time-major: token t of row b is number begin[t] + b, and the rows
// that have a token t are the first of all.
struct Ragged {
    std::vector<int> begin{0};

    Ragged(int batch, const int64_t* lengths) {
        for (int64_t t = 0, alive = batch; t < lengths[0]; ++t) {
            while (alive > 0 && lengths[alive - 1] <= t) --alive;
            begin.push_back(begin.back() + int(alive));
        }
    }
    int length() const { return int(begin.size()) - 1; }
    int alive(int t) const { return begin[t + 1] - begin[t]; }
    int total() const { return begin.back(); }
};

// A layer over all tokens: inputs, set as rows, to y (total, hidden).
void run_layer(Network& net, Layer& layer, const Rows& x, float* y, int y_stride, const Ragged& tokens) {
    const Matrix& wx = layer.from_input;
    const int all = tokens.total();
    // What the inputs contribute does not wait for the states.
    const bool ahead = tokens.length() > 1 && tokens.alive(0) < kManyRows;
    float* gates = ahead ? net.gates.reserve(size_t(wx.groups) * all * kGroup) : nullptr;
    if (ahead) {
        for_items(net.pool, net.choice, wx.groups, [&](int g) {
            for (int first = 0; first < all; first += kTileRows)
                group_values(net, wx, g, x, first, std::min(kTileRows, all - first),
                             layer.bias.data() + size_t(g) * kGroup, 0, gates + (size_t(g) * all + first) * kGroup);
        });
    }
    for (int t = 0; t < tokens.length(); ++t) {
        step_layer(net, layer, &x, tokens.begin[t], gates, all, tokens.alive(t));
        for (int b = 0; b < tokens.alive(t); ++b)
            std::memcpy(y + size_t(tokens.begin[t] + b) * y_stride, layer.h.get() + size_t(b) * layer.padded,
                        size_t(layer.hidden) * 4);
    }
}

// ---- states: (rows, S) at slots, layer by layer h, c ---------------------------------------------------------------

void load_states(Network& net, const float* states, const int64_t* slots, int batch) {
    size_t offset = 0;
    const size_t size = net.state_size();
    for (Layer& layer : net.layers) {
        float* h = layer.h.reserve(size_t(batch) * layer.padded);
        float* c = layer.c.reserve(size_t(batch) * layer.padded);
        for (int b = 0; b < batch; ++b) {
            const float* state = states + size_t(slots[b]) * size + offset;
            std::memcpy(h + size_t(b) * layer.padded, state, size_t(layer.hidden) * 4);
            std::memcpy(c + size_t(b) * layer.padded, state + layer.hidden, size_t(layer.hidden) * 4);
        }
        set_rows(net, layer.hiddens, layer.from_hidden, h, layer.padded, batch);
        offset += 2 * layer.hidden;
    }
}

// Row b of the layers becomes the state at a slot.
void store_state(const Network& net, float* states, int64_t slot, int b) {
    float* state = states + size_t(slot) * net.state_size();
    for (const Layer& layer : net.layers) {
        std::memcpy(state, layer.h.get() + size_t(b) * layer.padded, size_t(layer.hidden) * 4);
        std::memcpy(state + layer.hidden, layer.c.get() + size_t(b) * layer.padded, size_t(layer.hidden) * 4);
        state += 2 * layer.hidden;
    }
}

void embed(const Network& net, int64_t id, float* to) {
    const float* row = net.embedding + size_t(id) * net.embedding_size;
    for (int k = 0; k < net.embedding_size; ++k) to[k] = row[k] * net.embedding_scale;
}

// Tokens of B rows, lengths[b] of ids (B, T), longest first: features (B, T, P) out, where there are tokens.
void run(Network& net, int batch, int width, const int64_t* lengths, const int64_t* ids, float* states,
         const int64_t* slots, float* features) {
    const Ragged tokens(batch, lengths);
    const int all = tokens.total(), feature_size = net.feature_size();
    int widest = std::max(net.embedding_size, feature_size);
    for (const Layer& layer : net.layers) widest = std::max(widest, layer.hidden);
    float* x = net.x.reserve(size_t(all) * widest);
    for (int t = 0; t < tokens.length(); ++t)
        for (int b = 0; b < tokens.alive(t); ++b)
            embed(net, ids[size_t(b) * width + t], x + size_t(tokens.begin[t] + b) * widest);
    load_states(net, states, slots, batch);
    for (Layer& layer : net.layers) {
        set_rows(net, net.inputs, layer.from_input, x, widest, all);
        run_layer(net, layer, net.inputs, x, widest, tokens);
    }
    for (int b = 0; b < batch; ++b) store_state(net, states, slots[b], b);
    if (net.projection.matrix) {
        set_rows(net, net.inputs, *net.projection.matrix, x, widest, all);
        linear(net, net.projection, net.inputs, all, x, widest);
    }
    for (int t = 0; t < tokens.length(); ++t)
        for (int b = 0; b < tokens.alive(t); ++b)
            std::memcpy(features + (size_t(b) * width + t) * feature_size, x + size_t(tokens.begin[t] + b) * widest,
                        size_t(feature_size) * 4);
}

}  // namespace
