// Decoding: several tokens of several rows in one call, the next token never leaving this side.
#pragma once

#include "sampling.h"

namespace {

// What stays the same while a completion is drawn; as in models/native/__init__.py.
struct Plan {
    uint64_t seed, choice;
    int64_t start;  // position of the first token
    int64_t max_tokens, min_tokens;
    float temperature, top_p, min_p;
    int32_t top_k;
    int32_t unk;  // -1: may be drawn
    int32_t eos;
    int32_t ends_at_eos;
    int32_t padding;
};
static_assert(sizeof(Plan) == 72, "as Python packs it");

// One completion under way. place: in the caller's arrays.
struct Decoded {
    int place;
    int64_t last, drawn;  // the last token and how many there are

    bool finished(const Plan& plan) const {
        return drawn >= plan.max_tokens || (plan.ends_at_eos && last == plan.eos);
    }
    Draw next(const Plan& plan) const {
        const bool may_end = drawn >= plan.min_tokens;
        return {plan.seed, plan.choice, uint64_t(plan.start + drawn), plan.temperature, plan.top_p, plan.min_p,
                plan.top_k, {plan.unk, may_end ? -1 : plan.eos}};
    }
};

// Logits and draws are made for so many rows at a time, so that they stay in the cache.
constexpr int kLogitRows = 64;

// The features of the rows after one more token each, set as the output matrix wants them.
void step(Network& net, const std::vector<Decoded>& rows) {
    const int batch = int(rows.size());
    float* x = net.x.reserve(size_t(batch) * std::max(net.embedding_size, net.feature_size()));
    for (int b = 0; b < batch; ++b) embed(net, rows[b].last, x + size_t(b) * net.embedding_size);
    set_rows(net, net.inputs, *net.layers[0].from_input, x, net.embedding_size, batch);
    const Rows* below = &net.inputs;
    for (Layer& layer : net.layers) {
        step_layer(net, layer, below, 0, nullptr, 0, batch);
        below = &layer.hiddens;
    }
    if (net.projection.matrix) {
        linear(net, net.projection, *below, batch, x, net.feature_size());
        set_rows(net, net.features, *net.output.matrix, x, net.feature_size(), batch);
    }
}

// Logits of rows [begin, begin + count), their groups weighed on the way, and a token for each.
void draw_tokens(Network& net, int begin, int count, const Draw* draws, int64_t* ids) {
    const Matrix& m = *net.output.matrix;
    const Rows& features = net.projection.matrix ? net.features : net.layers.back().hiddens;
    float* logits = net.logits.reserve(size_t(count) * m.outputs);
    Mass* groups = net.masses.reserve(size_t(count) * m.groups);
    for_items(net, m.groups, [&](int g) {
        alignas(64) float values[kTileRows * kGroup];
        const int width = std::min(kGroup, m.outputs - g * kGroup);
        for (int first = 0; first < count; first += kTileRows) {
            const int rows = std::min(kTileRows, count - first);
            group_values(net, m, g, features, begin + first, rows, net.output.bias.data() + size_t(g) * kGroup, 0, values);
            for (int r = 0; r < rows; ++r) {
                float* row = values + r * kGroup;
                groups[size_t(first + r) * m.groups + g] = weigh(net, row, g, width, draws[first + r]);
                std::memcpy(logits + size_t(first + r) * m.outputs + size_t(g) * kGroup, row, size_t(width) * 4);
            }
        }
    });
    draw_rows(net, count, logits, groups, draws, ids);
}

// Row b leaves: the last row takes its place.
void remove_row(Network& net, std::vector<Decoded>& rows, int b) {
    const int last = int(rows.size()) - 1;
    if (b != last) {
        for (Layer& layer : net.layers) {
            const size_t from = size_t(last) * layer.padded, to = size_t(b) * layer.padded;
            std::memcpy(layer.h.get() + to, layer.h.get() + from, size_t(layer.padded) * 4);
            std::memcpy(layer.c.get() + to, layer.c.get() + from, size_t(layer.padded) * 4);
            layer.hiddens.move(last, b);
        }
        rows[b] = rows[last];
    }
    rows.pop_back();
}

// Consumes the last token of each completion and draws the next, again and again: until all have ended, `max_steps`
// steps were made, or `seconds` are over. States have then consumed all tokens but the last. At least one step is made.
//
// last, drawn: (B,). states: (rows, S), updated at slots: (B,). tokens: (B, max_steps), of which produced, (B,), are set.
void decode(Network& net, int batch, int max_steps, double seconds, const Plan* plans, const int64_t* last,
            const int64_t* drawn, float* states, const int64_t* slots, int64_t* tokens, int64_t* produced) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    std::vector<Decoded> rows(batch);
    for (int b = 0; b < batch; ++b) {
        rows[b] = {b, last[b], drawn[b]};
        produced[b] = 0;
    }
    std::vector<Draw> draws(batch);
    std::vector<int64_t> ids(batch);
    load_states(net, states, slots, batch);
    for (int made = 0; made < max_steps && !rows.empty(); ++made) {
        if (made > 0 && std::chrono::steady_clock::now() >= end) break;
        step(net, rows);
        const int count = int(rows.size());
        for (int b = 0; b < count; ++b) draws[b] = rows[b].next(plans[rows[b].place]);
        for (int b = 0; b < count; b += kLogitRows)
            draw_tokens(net, b, std::min(kLogitRows, count - b), draws.data() + b, ids.data() + b);
        for (int b = count - 1; b >= 0; --b) {
            Decoded& row = rows[b];
            row.last = ids[b];
            ++row.drawn;
            tokens[size_t(row.place) * max_steps + produced[row.place]++] = ids[b];
            if (row.finished(plans[row.place])) {
                store_state(net, states, slots[row.place], b);
                remove_row(net, rows, b);
            }
        }
    }
    for (int b = 0; b < int(rows.size()); ++b) store_state(net, states, slots[rows[b].place], b);
}

}  // namespace
