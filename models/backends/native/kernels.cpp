// The inference step of an LSTM stack: packed weights, one pass per layer, and results that do not depend on batch
// neighbours. Here is what Python calls (library.py has the signatures); lengths and types are checked there.
//
// Batch invariance by construction. Every output element is one sum over k in ascending order (float32: a chain of
// fused multiply-adds; bfloat16: the processor's pairwise dot product; int8: exact integer sums with one scale per row
// of activations and one per output). Which other rows are in the batch, how a prompt is cut into pieces, and how many
// threads share the work decide only which core computes an element and when, never how.
#include "decoding.h"
#include "scoring.h"

namespace {

// Whether all are from 0 to size - 1.
bool known(const int64_t* ids, int64_t count, int64_t size) {
    return std::all_of(ids, ids + count, [&](int64_t id) { return id >= 0 && id < size; });
}

}  // namespace

// Entry points that take token ids return 0, and have done nothing, where one is no row of the matrix that it is for.
extern "C" {

// Bits: 1 AVX-512, 2 VNNI, 4 AVX-512 bfloat16, 8 AMX int8, 16 AMX bfloat16.
int carousel_processor() { return processor().bits(); }

// features: bits of `carousel_processor`, of which those that are there are used.
void* carousel_network(int type, int threads, int features, const float* embedding, int vocabulary, int embedding_size,
                       float scale) {
    auto* net = new Network(Type(type), threads, processor().limited_to(features));
    net->embedding = embedding;
    net->vocabulary = vocabulary;
    net->embedding_size = embedding_size;
    net->embedding_scale = scale;
    return net;
}

void carousel_free(void* network) { delete static_cast<Network*>(network); }

// from_input: (4H, inputs). from_hidden: (4H, H). bias: (4H,).
void carousel_add_layer(void* network, const float* from_input, const float* from_hidden, const float* bias, int inputs,
                        int hidden) {
    const std::vector<int32_t> order = gate_order(hidden);
    auto* net = static_cast<Network*>(network);
    Layer layer;
    layer.inputs = inputs;
    layer.hidden = hidden;
    layer.padded = (hidden + kUnits - 1) / kUnits * kUnits;
    pack(layer.from_input, from_input, order, inputs, net->type, net->pool);
    pack(layer.from_hidden, from_hidden, order, hidden, net->type, net->pool);
    for (const int32_t row : order) layer.bias.push_back(row < 0 ? 0.0f : bias[row]);
    net->layers.push_back(std::move(layer));
}

// which: 0 the projection, 1 the output. weights: (outputs, inputs). bias: (outputs,).
void carousel_set_linear(void* network, int which, const float* weights, const float* bias, int outputs, int inputs) {
    auto* net = static_cast<Network*>(network);
    Linear& l = which ? net->output : net->projection;
    l.matrix.emplace();
    pack(*l.matrix, weights, in_order(outputs), inputs, net->type, net->pool);
    l.bias.assign(bias, bias + outputs);
    l.bias.resize(size_t(l.matrix->groups) * kGroup);
}

int64_t carousel_bytes(void* network) {
    auto* net = static_cast<Network*>(network);
    int64_t bytes = net->output.matrix->bytes();
    if (net->projection.matrix) bytes += net->projection.matrix->bytes();
    for (const Layer& layer : net->layers) bytes += layer.from_input.bytes() + layer.from_hidden.bytes();
    return bytes;
}

// ids: (B, T), of which lengths: (B,), descending, are there. states: (rows, S), updated at slots: (B,). features:
// (B, T, P), out, where there are tokens.
int carousel_run(void* network, int batch, int width, const int64_t* lengths, const int64_t* ids, float* states,
                 const int64_t* slots, float* features) {
    auto& net = *static_cast<Network*>(network);
    for (int b = 0; b < batch; ++b)
        if (!known(ids + size_t(b) * width, lengths[b], net.vocabulary)) return 0;
    run(net, batch, width, lengths, ids, states, slots, features);
    return 1;
}

// The features of states: (rows, S) at slots: (N,), as they were when the states were left. features: (N, P), out.
void carousel_readout(void* network, int count, const float* states, const int64_t* slots, float* features) {
    auto& net = *static_cast<Network*>(network);
    const int hidden = net.layers.back().hidden, state_size = net.state_size(), width = net.feature_size();
    float* x = net.x.reserve(size_t(count) * hidden);
    for (int i = 0; i < count; ++i)
        std::memcpy(x + size_t(i) * hidden, states + size_t(slots[i]) * state_size + state_size - 2 * hidden,
                    size_t(hidden) * 4);
    if (!net.projection.matrix) {
        std::memcpy(features, x, size_t(count) * hidden * 4);
        return;
    }
    set_rows(net, net.inputs, *net.projection.matrix, x, hidden, count);
    linear(net, net.projection, net.inputs, count, features, width);
}

// features: (N, P) -> logits: (N, V).
void carousel_logits(void* network, int count, const float* features, float* logits) {
    auto& net = *static_cast<Network*>(network);
    const Matrix& m = *net.output.matrix;
    set_rows(net, net.features, m, features, m.inputs, count);
    linear(net, net.output, net.features, count, logits, m.outputs);
}

// Log-probabilities and ranks of targets: (N,) each, from features: (N, P).
int carousel_score(void* network, int count, const float* features, const int64_t* targets, float* logprobs,
                   int32_t* ranks) {
    auto& net = *static_cast<Network*>(network);
    if (!known(targets, count, net.output.matrix->outputs)) return 0;
    score(net, count, features, targets, logprobs, ranks);
    return 1;
}

// One token for each row of logits (N, V), which may be overwritten.
void carousel_sample(void* network, int count, float* logits, const Draw* draws, int64_t* ids) {
    sample(*static_cast<Network*>(network), count, logits, draws, ids);
}

// See `decode`.
int carousel_decode(void* network, int batch, int max_steps, double seconds, const Plan* plans, const int64_t* feeds,
                    const int64_t* feed_ends, const int64_t* drawn, float* states, const int64_t* slots,
                    int64_t* tokens, int64_t* produced, int64_t* consumed, float* before_last) {
    auto& net = *static_cast<Network*>(network);
    if (net.output.matrix->outputs > net.vocabulary) return 0;  // what is drawn is consumed
    if (batch > 0 && !known(feeds, feed_ends[batch - 1], net.vocabulary)) return 0;
    decode(net, batch, max_steps, seconds, plans, feeds, feed_ends, drawn, states, slots, tokens, produced, consumed,
           before_last);
    return 1;
}

}  // extern "C"
