// Scoring: log-probabilities and ranks without a (tokens x vocabulary) matrix.
#pragma once

#include "network.h"

namespace {

CLONES Share share_of(const float* logits, int width, float target) {
    Share share{-INFINITY, 0.0f, 0};
    for (int n = 0; n < width; ++n) share.largest = std::max(share.largest, logits[n]);
    for (int n = 0; n < width; ++n) share.sum += exp_f(logits[n] - share.largest);
    for (int n = 0; n < width; ++n) share.above += logits[n] > target;
    return share;
}

CLONES double total_of(const Share* shares, int count, float largest) {
    double total = 0.0;
    for (int g = 0; g < count; ++g) total += double(shares[g].sum) * exp_f(shares[g].largest - largest);
    return total;
}

#ifdef CAROUSEL_X86
TARGET_512 Share share_512(const float* logits, int width, float target) {
    const __m512 lowest = _mm512_set1_ps(-INFINITY), wanted = _mm512_set1_ps(target);
    __m512 x[4], largest = lowest;
    int above = 0;
    for (int j = 0; j < 4; ++j) {
        x[j] = _mm512_mask_loadu_ps(lowest, lanes(width - 16 * j), logits + 16 * j);
        largest = _mm512_max_ps(largest, x[j]);
        above += __builtin_popcount(_mm512_cmp_ps_mask(x[j], wanted, _CMP_GT_OQ));
    }
    const float most = _mm512_reduce_max_ps(largest);
    __m512 sum = _mm512_setzero_ps();
    for (int j = 0; j < 4; ++j)
        sum = _mm512_mask_add_ps(sum, lanes(width - 16 * j), sum, exp_512(_mm512_sub_ps(x[j], _mm512_set1_ps(most))));
    return {most, _mm512_reduce_add_ps(sum), above};
}
#endif

Share group_share(const Network& net, const float* logits, int width, float target) {
#ifdef CAROUSEL_X86
    if (net.processor.avx512) return share_512(logits, width, target);
#endif
    return share_of(logits, width, target);
}

// logprobs, ranks: of one target for each row of features (N, P).
void score(Network& net, int count, const float* features, const int64_t* targets, float* logprobs, int32_t* ranks) {
    const Linear& l = net.output;
    const Matrix& m = *l.matrix;
    set_rows(net, net.features, m, features, m.inputs, count);
    float* target_logits = net.target_logits.reserve(count);
    for_items(net.pool, net.choice, count, [&](int r) {  // each from its own group, in the same way as below
        alignas(64) float values[kTileRows * kGroup];
        const int g = int(targets[r] / kGroup);
        group_values(net, m, g, net.features, r, 1, l.bias.data() + size_t(g) * kGroup, 0, values);
        target_logits[r] = values[targets[r] % kGroup];
    });
    Share* shares = net.shares.reserve(size_t(count) * m.groups);
    for_items(net.pool, net.choice, m.groups, [&](int g) {
        alignas(64) float values[kTileRows * kGroup];
        const int width = std::min(kGroup, m.outputs - g * kGroup);
        for (int first = 0; first < count; first += kTileRows) {
            const int rows = std::min(kTileRows, count - first);
            group_values(net, m, g, net.features, first, rows, l.bias.data() + size_t(g) * kGroup, 0, values);
            for (int r = 0; r < rows; ++r)
                shares[size_t(first + r) * m.groups + g] =
                    group_share(net, values + r * kGroup, width, target_logits[first + r]);
        }
    });
    net.pool.run(count, [&](int r) {
        const Share* row = shares + size_t(r) * m.groups;
        float largest = row[0].largest;
        int above = 0;
        for (int g = 0; g < m.groups; ++g) {
            largest = std::max(largest, row[g].largest);
            above += row[g].above;
        }
        const double total = total_of(row, m.groups, largest);
        logprobs[r] = std::min(0.0f, float(double(target_logits[r]) - largest - std::log(total)));
        ranks[r] = above + 1;
    });
}

}  // namespace
