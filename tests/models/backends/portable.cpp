// Runs a tiny network by the kernels' portable code and prints every result as its bits. Built for two processors, the two
// outputs have to be equal: see test_portable.py.
#include "../../../models/backends/native/kernels.cpp"

#include <cinttypes>
#include <cstdio>

namespace {

uint32_t seed = 1;

float next() {  // in [-0.5, 0.5)
    seed = seed * 1664525u + 1013904223u;
    return float(seed >> 8) * 0x1p-24f - 0.5f;
}

std::vector<float> values(size_t count) {
    std::vector<float> made(count);
    for (float& value : made) value = next();
    return made;
}

template <typename T>
void print(const char* what, const std::vector<T>& values) {
    std::printf("%s", what);
    for (const T& value : values) {
        uint64_t bits = 0;
        std::memcpy(&bits, &value, sizeof value);
        std::printf(" %" PRIx64, bits);
    }
    std::printf("\n");
}

}  // namespace

int main() {
    constexpr int kVocabulary = 150, kEmbedding = 12, kHidden = 20, kRows = 3, kTokens = 5, kState = 2 * kHidden;
    constexpr int kSteps = 8;
    for (int type = 0; type < 3; ++type) {
        seed = 1;
        const auto embedding = values(kVocabulary * kEmbedding);
        void* net = carousel_network(type, 1, 0, embedding.data(), kVocabulary, kEmbedding, 2.0f);
        const auto from_input = values(4 * kHidden * kEmbedding), from_hidden = values(4 * kHidden * kHidden);
        const auto bias = values(4 * kHidden), projection = values(kEmbedding * kHidden), none = values(kEmbedding);
        const auto output = values(kVocabulary * kEmbedding), output_bias = values(kVocabulary);
        carousel_add_layer(net, from_input.data(), from_hidden.data(), bias.data(), kEmbedding, kHidden);
        carousel_set_linear(net, 0, projection.data(), none.data(), kEmbedding, kHidden);
        carousel_set_linear(net, 1, output.data(), output_bias.data(), kVocabulary, kEmbedding);

        std::vector<int64_t> ids(kRows * kTokens), lengths{5, 4, 2}, slots{2, 0, 1}, targets{7, 70, 149};
        for (size_t i = 0; i < ids.size(); ++i) ids[i] = int64_t(i * 37 % kVocabulary);
        std::vector<float> states(kRows * kState), features(kRows * kTokens * kEmbedding);
        carousel_run(net, kRows, kTokens, lengths.data(), ids.data(), states.data(), slots.data(), features.data());
        print("states", states);

        std::vector<float> read(kRows * kEmbedding), logits(kRows * kVocabulary), logprobs(kRows);
        std::vector<int32_t> ranks(kRows);
        carousel_readout(net, kRows, states.data(), slots.data(), read.data());
        carousel_logits(net, kRows, read.data(), logits.data());
        carousel_score(net, kRows, read.data(), targets.data(), logprobs.data(), ranks.data());
        print("readout", read);
        print("logits", logits);
        print("logprobs", logprobs);
        print("ranks", ranks);

        std::vector<Plan> plans;
        for (uint64_t row = 0; row < kRows; ++row)
            plans.push_back({42, row, 1, kSteps, 0, row == 0 ? 0.0f : 0.9f, row == 2 ? 0.8f : 1.0f, 0.0f, 40, 0, 1, 1, 0});
        const std::vector<int64_t> feeds{3, 4, 5}, feed_ends{1, 2, 3}, drawn(kRows);
        std::vector<int64_t> tokens(kRows * kSteps), produced(kRows), consumed(kRows);
        carousel_decode(net, kRows, kSteps, 1e9, plans.data(), feeds.data(), feed_ends.data(), drawn.data(), states.data(),
                        slots.data(), tokens.data(), produced.data(), consumed.data(), nullptr);
        print("tokens", tokens);
        print("produced", produced);
        print("states", states);
        carousel_free(net);
    }
}
