// Sampling: one uniform number, and the inverse of the cumulative distribution. No row is sorted as a whole.
//
// Logits are looked at in the groups of 64 in which they are computed. A group's mass, taken while its logits are in
// the cache, says what it may contribute; only groups that can matter are looked at again.
#pragma once

#include <numeric>

#include "network.h"

namespace {

// As in models/backends/native/network.py. Token ids below 0 ban nothing.
struct Draw {
    uint64_t seed, choice, position;
    float temperature;  // 0: the likeliest
    float top_p, min_p;
    int32_t top_k;
    int32_t banned[2];

    float inverse_temperature() const { return temperature > 0.0f ? 1.0f / temperature : 1.0f; }
    bool filters() const { return top_k > 0 || top_p < 1.0f || min_p > 0.0f; }
};
static_assert(sizeof(Draw) == 48, "as Python packs it");

uint64_t splitmix64(uint64_t x) {  // Steele et al. 2014, figure 17
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

// As models/decoding/sampling.py's `uniforms`.
double uniform(const Draw& draw) {
    const uint64_t bits = splitmix64(splitmix64(splitmix64(draw.seed) ^ draw.choice) ^ draw.position);
    return double(bits >> 11) * 0x1p-53;
}

// ---- what sees every logit -----------------------------------------------------------------------------------------

// out[i] = exp((logits[i] - largest) * scale): the largest is 1, what is not allowed (-infinity) 0.
CLONES void masses_of(const float* logits, int count, float largest, float scale, float* out) {
    for (int i = 0; i < count; ++i) {
        const float x = (logits[i] - largest) * scale;
        out[i] = x < -87.0f ? 0.0f : exp_f(x);
    }
}

CLONES float largest_of(const float* logits, int count) {
    float largest = -INFINITY;
    for (int i = 0; i < count; ++i) largest = std::max(largest, logits[i]);
    return largest;
}

#ifdef CAROUSEL_X86
TARGET_512 INLINE __m512 mass_512(__m512 logits, __m512 largest, __m512 scale) {
    const __m512 x = _mm512_mul_ps(_mm512_sub_ps(logits, largest), scale);
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GE_OQ), exp_512(x));
}

TARGET_512 void masses_512(const float* logits, int count, float largest, float scale, float* out) {
    for (int i = 0; i < count; i += 16) {
        const __mmask16 real = lanes(count - i);
        const __m512 x = _mm512_maskz_loadu_ps(real, logits + i);
        _mm512_mask_storeu_ps(out + i, real, mass_512(x, _mm512_set1_ps(largest), _mm512_set1_ps(scale)));
    }
}

TARGET_512 Mass group_mass_512(const float* logits, int width, float scale) {
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 x[4], largest = lowest, sum = _mm512_setzero_ps();
    for (int j = 0; j < 4; ++j) {
        x[j] = _mm512_mask_loadu_ps(lowest, lanes(width - 16 * j), logits + 16 * j);
        largest = _mm512_max_ps(largest, x[j]);
    }
    const float most = _mm512_reduce_max_ps(largest);
    if (most == -INFINITY) return {most, 0.0f};
    for (int j = 0; j < 4; ++j)
        sum = _mm512_add_ps(sum, mass_512(x[j], _mm512_set1_ps(most), _mm512_set1_ps(scale)));
    return {most, _mm512_reduce_add_ps(sum)};
}

// Where logits[i] >= least: the logit and first + i go to the ends of values and ids. Returns how many there are.
TARGET_512 int gather_512(const float* logits, int width, float least, int first, float* values, int32_t* ids) {
    const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int found = 0;
    for (int i = 0; i < width; i += 16) {
        const __m512 x = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), lanes(width - i), logits + i);
        const __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(least), _CMP_GE_OQ) & lanes(width - i);
        if (!kept) continue;
        _mm512_mask_compressstoreu_ps(values + found, kept, x);
        _mm512_mask_compressstoreu_epi32(ids + found, kept, _mm512_add_epi32(steps, _mm512_set1_epi32(first + i)));
        found += __builtin_popcount(kept);
    }
    return found;
}
#endif

void make_masses(const Network& net, const float* logits, int count, float largest, float scale, float* out) {
#ifdef CAROUSEL_X86
    if (net.processor.avx512) return masses_512(logits, count, largest, scale, out);
#endif
    masses_of(logits, count, largest, scale, out);
}

Mass group_mass(const Network& net, const float* logits, int width, float scale) {
#ifdef CAROUSEL_X86
    if (net.processor.avx512) return group_mass_512(logits, width, scale);
#endif
    Mass mass{largest_of(logits, width), 0.0f};
    if (mass.largest == -INFINITY) return mass;
    float masses[kGroup];
    masses_of(logits, width, mass.largest, scale, masses);
    for (int i = 0; i < width; ++i) mass.sum += masses[i];
    return mass;
}

int gather(const Network& net, const float* logits, int width, float least, int first, float* values, int32_t* ids) {
#ifdef CAROUSEL_X86
    if (net.processor.avx512) return gather_512(logits, width, least, first, values, ids);
#endif
    int found = 0;
    for (int i = 0; i < width; ++i) {
        if (!(logits[i] >= least)) continue;
        values[found] = logits[i];
        ids[found++] = first + i;
    }
    return found;
}

// ---- one row -------------------------------------------------------------------------------------------------------

struct Candidate {
    float mass;
    int id;
    // Likelier first, the lower id among equals.
    bool operator<(const Candidate& other) const { return mass != other.mass ? mass > other.mass : id < other.id; }
};

// Buffers of one thread.
struct Scratch {
    Buffer<float> values, sums;
    Buffer<int32_t> ids;
    std::vector<Candidate> candidates;
};

// One row of logits and what is known of its groups.
struct Row {
    const Network& net;
    const float* logits;
    const Mass* groups;
    int count, group_count;
    const Draw& draw;
    Scratch& scratch;
    float largest, scale;

    int width(int g) const { return std::min(kGroup, count - g * kGroup); }

    // Candidates become all tokens with a logit of `least` or more; returns the sum of their masses.
    double collect(float least) const {
        float* values = scratch.values.reserve(count + kGroup);
        int32_t* ids = scratch.ids.reserve(count + kGroup);
        int found = 0;
        for (int g = 0; g < group_count; ++g)
            if (groups[g].largest >= least && groups[g].largest > -INFINITY)
                found += gather(net, logits + g * kGroup, width(g), least, g * kGroup, values + found, ids + found);
        make_masses(net, values, found, largest, scale, values);
        scratch.candidates.clear();
        double sum = 0.0;
        for (int i = 0; i < found; ++i) {
            if (!(values[i] > 0.0f)) continue;
            scratch.candidates.push_back({values[i], ids[i]});
            sum += values[i];
        }
        return sum;
    }
};

double mass_of(const std::vector<Candidate>& candidates, size_t count) {
    double sum = 0.0;
    for (size_t i = 0; i < count; ++i) sum += candidates[i].mass;
    return sum;
}

// Reorders the first `count` candidates around the one at which their cumulative mass, likeliest first, exceeds
// `target`: it comes to stand at its rank, which is returned, with the likelier ones before it. The weighted form of
// quickselect: linear time.
size_t select_by_mass(std::vector<Candidate>& candidates, size_t count, double target) {
    constexpr size_t kFew = 24;
    const auto begin = candidates.begin();
    size_t low = 0, high = count;
    while (high - low > kFew) {
        const Candidate a = candidates[low], b = candidates[low + (high - low) / 2], c = candidates[high - 1];
        const Candidate pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));  // the median of three
        const auto middle = std::partition(begin + low, begin + high, [&](const Candidate& x) { return x < pivot; });
        const size_t split = middle - begin;
        double above = 0.0;
        for (size_t i = low; i < split; ++i) above += candidates[i].mass;
        if (target < above) {
            high = split;
        } else {  // the pivot, never above itself, is among the rest: some are above it, or it is the best of three
            target -= above;
            if (split == low) {
                std::iter_swap(begin + low, std::find_if(begin + low, begin + high, [&](const Candidate& x) {
                                   return x.id == pivot.id;
                               }));
                if (target < pivot.mass) return low;
                target -= pivot.mass;
                ++low;
            } else {
                low = split;
            }
        }
    }
    std::sort(begin + low, begin + high);
    for (size_t i = low; i < high; ++i) {
        if (target < candidates[i].mass) return i;
        target -= candidates[i].mass;
    }
    return high - 1;  // rounding
}

// The least logit of the top-k: the k-th largest of the groups' largest is no higher.
float top_k_bound(const Row& row, int k) {
    if (k >= row.group_count) return -INFINITY;
    float* sums = row.scratch.sums.reserve(row.group_count);
    for (int g = 0; g < row.group_count; ++g) sums[g] = row.groups[g].largest;
    std::nth_element(sums, sums + k - 1, sums + row.group_count, std::greater<float>());
    return sums[k - 1];
}

// Tokens are collected in steps of a factor of four in probability, until they are sure to be enough.
constexpr int kSteps = 10;
float least_of_step(const Row& row, int step) { return row.largest - 1.3862944f * float(step) / row.scale; }

void collect_top_k(const Row& row, int k) {
    const float bound = top_k_bound(row, k);
    for (int step = 1; step <= kSteps && least_of_step(row, step) > bound; ++step) {
        row.collect(least_of_step(row, step));
        if (row.scratch.candidates.size() >= size_t(k)) return;
    }
    row.collect(bound);
}

void collect_nucleus(const Row& row, const float* sums, double wanted) {
    for (int step = 1; step <= kSteps; ++step) {
        const float least = least_of_step(row, step);
        double reachable = 0.0;  // no token outside of these groups is likely enough
        for (int g = 0; g < row.group_count; ++g)
            if (row.groups[g].largest >= least) reachable += sums[g];
        if (reachable >= wanted && row.collect(least) >= wanted) return;
    }
    row.collect(-INFINITY);
}

// What is drawn where there is no distribution: nothing may be drawn, or a logit is no number.
int first_allowed(int count, const Draw& draw) {
    for (int i = 0; i < count; ++i)
        if (i != draw.banned[0] && i != draw.banned[1]) return i;
    return 0;
}

// top-k, then top-p on what is left, then min-p; the fewest likeliest tokens, the lower id first among equals.
int draw_filtered(const Row& row, const float* sums, double total) {
    const Draw& draw = row.draw;
    std::vector<Candidate>& candidates = row.scratch.candidates;
    if (draw.top_k > 0) collect_top_k(row, draw.top_k);
    else if (draw.top_p < 1.0f) collect_nucleus(row, sums, draw.top_p * total * 1.0001);
    else row.collect(row.largest + std::log(draw.min_p) * 1.0001f / row.scale - 1e-6f);
    if (candidates.empty()) return first_allowed(row.count, draw);
    size_t kept = candidates.size();
    if (draw.top_k > 0 && size_t(draw.top_k) < kept) {
        std::nth_element(candidates.begin(), candidates.begin() + draw.top_k - 1, candidates.end());
        kept = draw.top_k;
    }
    if (draw.top_p < 1.0f) {  // of what top-k left, renormalised
        const double reached = draw.top_p * (draw.top_k > 0 ? mass_of(candidates, kept) : total);
        kept = 1 + select_by_mass(candidates, kept, std::nextafter(reached, 0.0));
    }
    if (draw.min_p > 0.0f) {
        const auto likely = [&](const Candidate& x) { return x.mass >= draw.min_p; };  // the likeliest has mass 1
        kept = std::max<size_t>(1, std::partition(candidates.begin(), candidates.begin() + kept, likely) - candidates.begin());
    }
    return candidates[select_by_mass(candidates, kept, uniform(draw) * mass_of(candidates, kept))].id;
}

int draw_plain(const Row& row, const float* sums, double total) {
    double left = uniform(row.draw) * total;
    int g = 0;
    while (g < row.group_count - 1 && left >= sums[g]) left -= sums[g++];
    while (g > 0 && sums[g] <= 0.0f) --g;  // rounding may have led past the last mass
    float masses[kGroup];
    make_masses(row.net, row.logits + g * kGroup, row.width(g), row.largest, row.scale, masses);
    int chosen = -1;
    for (int i = 0; i < row.width(g); ++i) {
        if (!(masses[i] > 0.0f)) continue;
        chosen = i;
        left -= masses[i];
        if (left < 0.0) break;
    }
    return chosen < 0 ? first_allowed(row.count, row.draw) : g * kGroup + chosen;
}

int draw_row(const Network& net, const float* logits, const Mass* groups, int count, const Draw& draw, Scratch& scratch) {
    const int group_count = (count + kGroup - 1) / kGroup;
    float largest = -INFINITY;
    for (int g = 0; g < group_count; ++g)
        largest = std::isnan(groups[g].largest) ? groups[g].largest : std::max(largest, groups[g].largest);
    if (!std::isfinite(largest)) return first_allowed(count, draw);
    if (draw.temperature <= 0.0f) {
        const float* found = std::find(logits, logits + count, largest);
        return found == logits + count ? first_allowed(count, draw) : int(found - logits);
    }
    const Row row{net, logits, groups, count, group_count, draw, scratch, largest, draw.inverse_temperature()};
    float* sums = scratch.sums.reserve(2 * size_t(group_count)) + group_count;  // the first half is top_k_bound's
    for (int g = 0; g < group_count; ++g) sums[g] = groups[g].largest;
    make_masses(net, sums, group_count, largest, row.scale, sums);
    double total = 0.0;
    for (int g = 0; g < group_count; ++g) total += sums[g] *= groups[g].sum;
    return draw.filters() ? draw_filtered(row, sums, total) : draw_plain(row, sums, total);
}

// ---- a batch -------------------------------------------------------------------------------------------------------

// Takes what may not be drawn out of a group of logits, and weighs the rest.
Mass weigh(const Network& net, float* logits, int g, int width, const Draw& draw) {
    for (int banned : draw.banned)
        if (banned >= 0 && banned / kGroup == g) logits[banned % kGroup] = -INFINITY;
    return group_mass(net, logits, width, draw.inverse_temperature());
}

// One token for each row of logits (N, V), which are overwritten where they are banned. Their groups have been weighed.
void draw_rows(Network& net, int count, const float* logits, const Mass* groups, const Draw* draws, int64_t* ids) {
    const int vocabulary = net.output.matrix->outputs, group_count = net.output.matrix->groups;
    net.pool.run(count, [&](int r) {
        thread_local Scratch scratch;
        ids[r] = draw_row(net, logits + size_t(r) * vocabulary, groups + size_t(r) * group_count, vocabulary, draws[r], scratch);
    });
}

void sample(Network& net, int count, float* logits, const Draw* draws, int64_t* ids) {
    const int vocabulary = net.output.matrix->outputs, group_count = net.output.matrix->groups;
    Mass* groups = net.masses.reserve(size_t(count) * group_count);
    net.pool.run(count, [&](int r) {
        for (int g = 0; g < group_count; ++g)
            groups[size_t(r) * group_count + g] = weigh(net, logits + size_t(r) * vocabulary + g * kGroup, g,
                                                        std::min(kGroup, vocabulary - g * kGroup), draws[r]);
    });
    draw_rows(net, count, logits, groups, draws, ids);
}

}  // namespace
