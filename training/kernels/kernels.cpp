// What training calls of the kernels: an LSTM layer both ways (training.h), products (multiply.h), dropout (dropout.h).
// Lengths and types are checked in Python. Everything here needs AVX-512 bfloat16; elsewhere the library is empty but for
// the first function.
#include "dropout.h"
#include "training.h"

extern "C" {

// Whether this processor can run what follows.
int carousel_trains() { return processor().bf16; }

#ifdef CAROUSEL_X86
// Of processors with AVX-512 bfloat16 alone, as all that takes a workspace.
void* carousel_training_workspace(int threads, int features) {
    return new TrainingWorkspace(threads, processor().limited_to(features));
}

// See `TrainingWorkspace`.
void carousel_layer_forward(void* workspace, int tokens, int batch, int hidden, const float* weights, const float* bias,
                            uint16_t* gates, uint16_t* h, float* c, uint16_t* cells) {
    static_cast<TrainingWorkspace*>(workspace)->forward(tokens, batch, hidden, weights, bias, gates, h, c, cells);
}

void carousel_layer_backward(void* workspace, int tokens, int batch, int hidden, const float* weights, uint16_t* gates,
                             const uint16_t* cells, const uint16_t* from_output, float* from_h, float* from_c) {
    static_cast<TrainingWorkspace*>(workspace)->backward(tokens, batch, hidden, weights, gates, cells, from_output, from_h, from_c);
}

// Products: see multiply.h.
int64_t carousel_packed_bytes(int inputs, int outputs) { return int64_t(packed_bytes(inputs, outputs)); }

void carousel_pack(void* workspace, int inputs, int outputs, const uint16_t* from, int transposed, char* to) {
    static_cast<TrainingWorkspace*>(workspace)->run(
        [&](Pool& pool) { pack_right(pool, inputs, outputs, from, transposed, to); });
}

void carousel_multiply(void* workspace, int rows, int outputs, int inputs, const uint16_t* a, const char* b,
                       const float* bias, uint16_t* out) {
    static_cast<TrainingWorkspace*>(workspace)->run(
        [&](Pool& pool) { multiply(pool, rows, outputs, inputs, a, b, bias, out); });
}

void carousel_multiply_transposed(void* workspace, int rows, int outputs, int inputs, const uint16_t* a, const char* b,
                                  int more, float* out, float* column_sums) {
    static_cast<TrainingWorkspace*>(workspace)->run(
        [&](Pool& pool) { multiply_transposed(pool, rows, outputs, inputs, a, b, more, out, column_sums); });
}

void carousel_softmax_gradient(void* workspace, int rows, int outputs, uint16_t* logits, const int64_t* targets,
                               float* nats) {
    static_cast<TrainingWorkspace*>(workspace)->run(
        [&](Pool& pool) { softmax_gradient(pool, rows, outputs, logits, targets, nats); });
}

// See `drop`. wide: whether the values are float32, or bfloat16.
void carousel_drop(void* workspace, int64_t count, uint64_t key, int dropped, int wide, const void* x, void* out) {
    static_cast<TrainingWorkspace*>(workspace)->run([&](Pool& pool) {
        if (wide) drop(pool, count, key, dropped, static_cast<const float*>(x), static_cast<float*>(out));
        else drop(pool, count, key, dropped, static_cast<const uint16_t*>(x), static_cast<uint16_t*>(out));
    });
}
#endif

}  // extern "C"
