// Decoding: several tokens of several rows in one call, the next token never leaving this side.
#pragma once

#include "sampling.h"

namespace {

// What stays the same while a completion is drawn; as in models/backends/native/network.py.
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

// One completion under way. place: in the caller's arrays. feed, left: what is still to be consumed before a draw, and
// how many these are; last: the token drawn before; drawn: how many there are.
struct Decoded {
    int place;
    const int64_t* feed;
    int64_t left, last, drawn;

    int64_t consume() {
        if (left == 0) return last;
        --left;
        return *feed++;
    }
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

// One more token of each row. Those that draw are the first; their features are set as the output matrix wants them.
void step(Network& net, std::vector<Decoded>& rows, int drawing) {
    const int batch = int(rows.size());
    float* x = net.x.reserve(size_t(batch) * std::max(net.embedding_size, net.feature_size()));
    for (int b = 0; b < batch; ++b) embed(net, rows[b].consume(), x + size_t(b) * net.embedding_size);
    set_rows(net, net.inputs, net.layers[0].from_input, x, net.embedding_size, batch);
    const Rows* below = &net.inputs;
    for (Layer& layer : net.layers) {
        step_layer(net, layer, below, 0, nullptr, 0, batch);
        below = &layer.hiddens;
    }
    if (net.projection.matrix && drawing) {
        linear(net, net.projection, *below, drawing, x, net.feature_size());
        set_rows(net, net.features, *net.output.matrix, x, net.feature_size(), drawing);
    }
}

// Logits of rows [begin, begin + count), their groups weighed on the way, and a token for each.
void draw_tokens(Network& net, int begin, int count, const Draw* draws, int64_t* ids) {
    const Matrix& m = *net.output.matrix;
    const Rows& features = net.projection.matrix ? net.features : net.layers.back().hiddens;
    float* logits = net.logits.reserve(size_t(count) * m.outputs);
    Mass* groups = net.masses.reserve(size_t(count) * m.groups);
    for_items(net.pool, net.choice, m.groups, [&](int g) {
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

void swap_rows(Network& net, std::vector<Decoded>& rows, int a, int b) {
    if (a == b) return;
    for (Layer& layer : net.layers) {
        for (float* values : {layer.h.get(), layer.c.get()}) {
            float* row = values + size_t(a) * layer.padded;
            std::swap_ranges(row, row + layer.padded, values + size_t(b) * layer.padded);
        }
        layer.hiddens.swap(a, b);
    }
    std::swap(rows[a], rows[b]);
}

// Consumes the feed of each completion, then draws a token, consumes it, draws the next: until all have ended,
// `max_steps` steps were made, or `seconds` are over. At least one step is made. States have then consumed all tokens
// but the last drawn.
//
// feeds: those of all rows, one token each at least; row b's ends at feed_ends[b]. drawn: (B,), tokens drawn before.
// states: (rows, S), updated at slots: (B,). tokens: (B, max_steps), of which produced, (B,), are set. consumed: (B,), of
// the feeds. before_last: null, or (B, S), where the state before the last token of a feed of several is left.
void decode(Network& net, int batch, int max_steps, double seconds, const Plan* plans, const int64_t* feeds,
            const int64_t* feed_ends, const int64_t* drawn, float* states, const int64_t* slots, int64_t* tokens,
            int64_t* produced, int64_t* consumed, float* before_last) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    std::vector<Decoded> rows(batch);
    for (int b = 0; b < batch; ++b) {
        const int64_t begin = b ? feed_ends[b - 1] : 0;
        rows[b] = {b, feeds + begin, feed_ends[b] - begin, -1, drawn[b]};
        produced[b] = 0;
    }
    load_states(net, states, slots, batch);
    std::vector<int64_t> ids(batch);
    std::vector<Draw> draws(batch);
    const auto leave = [&](int b) {
        store_state(net, states, slots[rows[b].place], b);
        consumed[rows[b].place] = rows[b].feed - (feeds + (rows[b].place ? feed_ends[rows[b].place - 1] : 0));
    };
    int drawing = 0;  // rows that draw come first, so that the output matrix is multiplied for them alone
    for (int made = 0; made < max_steps && !rows.empty(); ++made) {
        if (made > 0 && std::chrono::steady_clock::now() >= end) break;
        for (int b = drawing; b < int(rows.size()); ++b) {
            if (rows[b].left > 1) continue;
            if (before_last && made > 0) store_state(net, before_last, rows[b].place, b);
            swap_rows(net, rows, b, drawing++);
        }
        step(net, rows, drawing);
        for (int b = 0; b < drawing; ++b) draws[b] = rows[b].next(plans[rows[b].place]);
        for (int b = 0; b < drawing; b += kLogitRows)
            draw_tokens(net, b, std::min(kLogitRows, drawing - b), draws.data() + b, ids.data() + b);
        for (int b = drawing - 1; b >= 0; --b) {
            Decoded& row = rows[b];
            row.last = ids[b];
            ++row.drawn;
            tokens[size_t(row.place) * max_steps + produced[row.place]++] = ids[b];
            if (row.finished(plans[row.place])) {
                leave(b);
                swap_rows(net, rows, b, --drawing);
                swap_rows(net, rows, drawing, int(rows.size()) - 1);
                rows.pop_back();
            }
        }
    }
    for (int b = 0; b < int(rows.size()); ++b) leave(b);
}

}  // namespace
