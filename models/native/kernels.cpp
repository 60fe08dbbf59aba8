// The inference step of an LSTM stack: packed weights, one pass per layer, and results that do not depend on company.
//
// Batch invariance by construction. Every output element is one sum over k in ascending order (float32: a chain of
// fused multiply-adds; bfloat16: the processor's pairwise dot product; int8: exact integer sums with one scale per row
// of activations and one per output). Which other rows are in the batch, how a prompt is cut into pieces, and how many
// threads share the work decide only which core computes an element and when, never how.
//
// Layout of a packed matrix. Outputs come in groups of 64. A group is a run of 256-byte lines; a line holds, for each of
// its 64 outputs, the next 32 bits of weights: one float32, two bfloat16 or four int8. AVX-512 reads a line as four
// registers, AMX reads sixteen lines as four tiles of 16 outputs. For an LSTM layer the outputs are ordered so that a
// group is the four gates i, f, g, o of 16 units, and a unit's cell is updated where its gates are computed.

#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__linux__)
#define CAROUSEL_X86 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TARGET_512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")))
#define TARGET_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))
#define TARGET_AMX __attribute__((target("avx512f,avx512bw,amx-tile,amx-int8,amx-bf16")))
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int kGroup = 64;       // outputs of a group
constexpr int kUnits = 16;       // LSTM units of a group
constexpr int kLine = 256;       // bytes of a line
constexpr int kTileRows = 16;    // rows of an AMX tile; row buffers are padded to a multiple

enum Type : int { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2 };

// ---- what the processor offers -----------------------------------------------------------------------------------

struct Processor {
    bool avx512 = false, vnni = false, bf16 = false, amx_int8 = false, amx_bf16 = false;
    Processor() {
#ifdef CAROUSEL_X86
        __builtin_cpu_init();
        avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
        vnni = avx512 && __builtin_cpu_supports("avx512vnni");
        bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
        unsigned a = 7, b, c = 0, d;
        __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        const bool tile = d >> 24 & 1, tile_int8 = d >> 25 & 1, tile_bf16 = d >> 22 & 1;
        constexpr int kRequestPermission = 0x1023, kTileData = 18;
        const bool permitted = avx512 && tile && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
        amx_int8 = permitted && tile_int8;
        amx_bf16 = permitted && tile_bf16;
#endif
    }
};

Processor& processor() {
    static Processor found;
    return found;
}

// ---- threads -----------------------------------------------------------------------------------------------------

// Runs the items of a job on this thread and on helpers that are awake. The caller never waits for a helper to wake:
// items are handed out one by one, and only items that a helper has begun are waited for.
class Pool {
  public:
    explicit Pool(int threads) {
        for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
    }

    ~Pool() {
        stopping_.store(true);
        ticket_.fetch_add(uint64_t{1} << kGenerationShift);
        ticket_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    template <typename F>
    void run(int count, const F& item) {
        if (workers_.empty() || count < 2) {
            for (int i = 0; i < count; ++i) item(i);
            return;
        }
        Job& job = jobs_[++generation_ & 1];
        job.context = &item;
        job.call = [](const void* context, int i) { (*static_cast<const F*>(context))(i); };
        job.done.store(0, std::memory_order_relaxed);
        // A ticket says which job, how many items it has, and which is next: whoever draws one needs nothing else to
        // know whether the item exists, so a helper that comes late does no harm.
        ticket_.store(uint64_t(generation_ & 0xffff) << kGenerationShift | uint64_t(count) << kCountShift);
        ticket_.notify_all();
        draw();
        while (job.done.load(std::memory_order_acquire) < count) pause();
    }

  private:
    struct Job {
        const void* context = nullptr;
        void (*call)(const void*, int) = nullptr;
        std::atomic<int> done{0};
    };

    static constexpr int kCountShift = 24, kGenerationShift = 48;
    static constexpr uint64_t kMask = (1 << 24) - 1;
    static constexpr int kSpins = 4000;  // some tens of microseconds: the gap between two passes of one step

    void draw() {
        for (;;) {
            const uint64_t ticket = ticket_.fetch_add(1);
            const int next = int(ticket & kMask), count = int(ticket >> kCountShift & kMask);
            if (next >= count) return;
            Job& job = jobs_[ticket >> kGenerationShift & 1];
            job.call(job.context, next);
            job.done.fetch_add(1, std::memory_order_release);
        }
    }

    void work() {
        while (!stopping_.load()) {
            draw();
            uint64_t seen = ticket_.load();
            for (int spin = 0; spin < kSpins && !has_items(seen); ++spin) {
                pause();
                seen = ticket_.load(std::memory_order_relaxed);
            }
            if (!has_items(seen) && !stopping_.load()) ticket_.wait(seen);
        }
    }

    static bool has_items(uint64_t ticket) { return (ticket & kMask) < (ticket >> kCountShift & kMask); }

    static void pause() {
#ifdef CAROUSEL_X86
        _mm_pause();
#endif
    }

    std::vector<std::thread> workers_;
    std::atomic<uint64_t> ticket_{0};
    std::atomic<bool> stopping_{false};
    Job jobs_[2];
    uint32_t generation_ = 0;
};

// ---- numbers -----------------------------------------------------------------------------------------------------

INLINE float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

INLINE uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

INLINE uint16_t to_bfloat16(float value) {  // round to nearest, ties to even
    const uint32_t bits = float_to_bits(value);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// exp, by Cody-Waite reduction and the polynomial of Cephes' expf: relative error below 2e-7 for x in [-87, 88].
INLINE float exp_f(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    const float shifted = x * 1.44269504088896341f + 12582912.0f;  // the integer sits in the low bits of the mantissa
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * bits_to_float((float_to_bits(shifted) << 23) + 0x3f800000u);
}

INLINE float sigmoid_f(float x) { return 1.0f / (1.0f + exp_f(-x)); }
INLINE float tanh_f(float x) { return 2.0f / (1.0f + exp_f(-2.0f * x)) - 1.0f; }

struct Free {
    void operator()(void* p) const { std::free(p); }
};

// An aligned buffer that only grows; its content is lost when it does.
template <typename T>
class Buffer {
  public:
    T* reserve(size_t count) {
        if (count > capacity_) {
            const size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096;
            data_.reset(static_cast<T*>(std::aligned_alloc(4096, bytes)));
            std::memset(data_.get(), 0, bytes);
            capacity_ = count;
        }
        return data_.get();
    }
    T* get() const { return data_.get(); }

  private:
    std::unique_ptr<T, Free> data_;
    size_t capacity_ = 0;
};

// ---- packed matrices ---------------------------------------------------------------------------------------------

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

// weights: (rows, inputs). order[i]: the row that output i is, or -1 for padding; outputs of them.
Matrix* pack(const float* weights, const int32_t* order, int outputs, int inputs, Type type) {
    auto* m = new Matrix;
    m->type = type;
    m->outputs = outputs;
    m->inputs = inputs;
    m->groups = (outputs + kGroup - 1) / kGroup;
    const int lines = (inputs + m->per_line() - 1) / m->per_line();
    m->lines = type == kFloat32 ? lines : (lines + kTileRows - 1) / kTileRows * kTileRows;
    char* data = m->data.reserve(size_t(m->groups) * m->lines * kLine);
    if (type == kInt8) {
        m->scale.assign(size_t(m->groups) * kGroup, 0.0f);
        m->sums.assign(size_t(m->groups) * kGroup, 0);
    }
    for (int n = 0; n < outputs; ++n) {
        if (order[n] < 0) continue;
        const float* row = weights + size_t(order[n]) * inputs;
        char* column = data + size_t(n / kGroup) * m->lines * kLine + n % kGroup * 4;
        float scale = 0.0f;
        if (type == kInt8) {
            for (int k = 0; k < inputs; ++k) scale = std::max(scale, std::fabs(row[k]));
            scale = scale > 0 ? scale / 127.0f : 1.0f;
            m->scale[n] = scale;
        }
        for (int k = 0; k < inputs; ++k) {
            if (type == kFloat32) {
                std::memcpy(column + size_t(k) * kLine, &row[k], 4);
            } else if (type == kBFloat16) {
                const uint16_t value = to_bfloat16(row[k]);
                std::memcpy(column + size_t(k / 2) * kLine + k % 2 * 2, &value, 2);
            } else {
                const int value = std::min(127, std::max(-127, int(std::nearbyint(row[k] / scale))));
                column[size_t(k / 4) * kLine + k % 4] = char(value);
                m->sums[n] += value;
            }
        }
    }
    return m;
}

// Activations as a matrix wants them: rows of `stride` bytes, padded with zeros to whole tiles; int8: a scale per row.
struct Rows {
    Buffer<char> data;
    Buffer<float> scale;
    int stride = 0;
    const char* row(int r) const { return data.get() + size_t(r) * stride; }

    void prepare(int count, const Matrix& m) {
        const int wanted = m.padded_inputs() * (m.type == kFloat32 ? 4 : m.type == kBFloat16 ? 2 : 1);
        const int padded = (count + kTileRows - 1) / kTileRows * kTileRows;
        data.reserve(size_t(padded) * wanted);
        scale.reserve(padded);
        stride = wanted;
    }

    CLONES void set(int r, const float* x, const Matrix& m) {
        char* out = data.get() + size_t(r) * stride;
        const int n = m.inputs;
        if (m.type == kFloat32) {
            std::memcpy(out, x, size_t(n) * 4);
        } else if (m.type == kBFloat16) {
            auto* values = reinterpret_cast<uint16_t*>(out);
            for (int k = 0; k < n; ++k) values[k] = to_bfloat16(x[k]);
            for (int k = n; k < stride / 2; ++k) values[k] = 0;
        } else {
            float largest = 0.0f;
            for (int k = 0; k < n; ++k) largest = std::max(largest, std::fabs(x[k]));
            const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
            scale.get()[r] = largest / 127.0f;
            auto* values = reinterpret_cast<int8_t*>(out);
            for (int k = 0; k < n; ++k) {
                // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low byte.
                values[k] = int8_t(float_to_bits(x[k] * inverse + 12582912.0f) & 0xff);
            }
            for (int k = n; k < stride; ++k) values[k] = 0;
        }
    }
};

// ---- products: 64 outputs of one group for up to 16 rows ---------------------------------------------------------

// out: (rows, 64), the plain sums: float, or for int8 int32.
using Product = void (*)(const Matrix&, int group, const Rows&, int first, int rows, void* out);

template <typename Sum, typename Accumulate>
INLINE void each_row(const Rows& x, int first, int rows, void* out, const Accumulate& accumulate) {
    for (int r = 0; r < rows; ++r) {
        Sum sums[kGroup] = {};
        accumulate(x.row(first + r), sums);
        std::memcpy(static_cast<Sum*>(out) + r * kGroup, sums, sizeof sums);
    }
}

CLONES void product_float32(const Matrix& m, int group, const Rows& x, int first, int rows, void* out) {
    each_row<float>(x, first, rows, out, [&](const char* row, float* sums) {
        const auto* w = reinterpret_cast<const float*>(m.group(group));
        const auto* v = reinterpret_cast<const float*>(row);
        for (int k = 0; k < m.inputs; ++k)
            for (int n = 0; n < kGroup; ++n) sums[n] = std::fma(v[k], w[k * kGroup + n], sums[n]);
    });
}

CLONES void product_bfloat16(const Matrix& m, int group, const Rows& x, int first, int rows, void* out) {
    each_row<float>(x, first, rows, out, [&](const char* row, float* sums) {
        const auto* w = reinterpret_cast<const uint32_t*>(m.group(group));
        const auto* v = reinterpret_cast<const uint32_t*>(row);
        for (int k = 0; k < m.lines; ++k)
            for (int n = 0; n < kGroup; ++n) {
                const uint32_t pair = w[k * kGroup + n];
                sums[n] = std::fma(bits_to_float(v[k] << 16), bits_to_float(pair << 16), sums[n]);
                sums[n] = std::fma(bits_to_float(v[k] & 0xffff0000u), bits_to_float(pair & 0xffff0000u), sums[n]);
            }
    });
}

CLONES void product_int8(const Matrix& m, int group, const Rows& x, int first, int rows, void* out) {
    each_row<int32_t>(x, first, rows, out, [&](const char* row, int32_t* sums) {
        const auto* w = reinterpret_cast<const int8_t*>(m.group(group));
        const auto* v = reinterpret_cast<const int8_t*>(row);
        for (int k = 0; k < m.lines; ++k)
            for (int n = 0; n < kGroup; ++n)
                for (int i = 0; i < 4; ++i) sums[n] += int(v[4 * k + i]) * int(w[k * kLine + 4 * n + i]);
    });
}

#ifdef CAROUSEL_X86

// R rows by 64 outputs in registers: a line of weights is read once for all of them.
template <int R>
TARGET_512 INLINE void float32_rows(const Matrix& m, int group, const Rows& x, int first, float* out) {
    __m512 sums[R][4];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_ps();
    const float* v[R];
    for (int r = 0; r < R; ++r) v[r] = reinterpret_cast<const float*>(x.row(first + r));
    const char* line = m.group(group);
    for (int k = 0; k < m.inputs; ++k, line += kLine) {
        __m512 w[4];
        for (int j = 0; j < 4; ++j) w[j] = _mm512_load_ps(line + 64 * j);
        for (int r = 0; r < R; ++r) {
            const __m512 value = _mm512_set1_ps(v[r][k]);
            for (int j = 0; j < 4; ++j) sums[r][j] = _mm512_fmadd_ps(value, w[j], sums[r][j]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 4; ++j) _mm512_storeu_ps(out + r * kGroup + 16 * j, sums[r][j]);
}

TARGET_512 void product_float32_512(const Matrix& m, int group, const Rows& x, int first, int rows, void* out) {
    auto* o = static_cast<float*>(out);
    int r = 0;
    for (; r + 4 <= rows; r += 4) float32_rows<4>(m, group, x, first + r, o + r * kGroup);
    for (; r < rows; ++r) float32_rows<1>(m, group, x, first + r, o + r * kGroup);
}

template <int R>
TARGET_BF16 INLINE void bfloat16_rows(const Matrix& m, int group, const Rows& x, int first, float* out) {
    __m512 sums[R][4];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_ps();
    const int32_t* v[R];
    for (int r = 0; r < R; ++r) v[r] = reinterpret_cast<const int32_t*>(x.row(first + r));
    const char* line = m.group(group);
    for (int k = 0; k < m.lines; ++k, line += kLine) {
        __m512bh w[4];
        for (int j = 0; j < 4; ++j) w[j] = (__m512bh)_mm512_load_si512(line + 64 * j);
        for (int r = 0; r < R; ++r) {
            const auto value = (__m512bh)_mm512_set1_epi32(v[r][k]);
            for (int j = 0; j < 4; ++j) sums[r][j] = _mm512_dpbf16_ps(sums[r][j], value, w[j]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 4; ++j) _mm512_storeu_ps(out + r * kGroup + 16 * j, sums[r][j]);
}

TARGET_BF16 void product_bfloat16_512(const Matrix& m, int group, const Rows& x, int first, int rows, void* out) {
    auto* o = static_cast<float*>(out);
    int r = 0;
    for (; r + 4 <= rows; r += 4) bfloat16_rows<4>(m, group, x, first + r, o + r * kGroup);
    for (; r < rows; ++r) bfloat16_rows<1>(m, group, x, first + r, o + r * kGroup);
}

// The instruction takes unsigned activations: 128 is added to each, and 128 times the sum of the weights taken off.
template <int R>
TARGET_VNNI INLINE void int8_rows(const Matrix& m, int group, const Rows& x, int first, int32_t* out) {
    __m512i sums[R][4];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_si512();
    const int32_t* v[R];
    for (int r = 0; r < R; ++r) v[r] = reinterpret_cast<const int32_t*>(x.row(first + r));
    const char* line = m.group(group);
    for (int k = 0; k < m.lines; ++k, line += kLine) {
        __m512i w[4];
        for (int j = 0; j < 4; ++j) w[j] = _mm512_load_si512(line + 64 * j);
        for (int r = 0; r < R; ++r) {
            const __m512i value = _mm512_set1_epi32(v[r][k] ^ int32_t(0x80808080));
            for (int j = 0; j < 4; ++j) sums[r][j] = _mm512_dpbusd_epi32(sums[r][j], value, w[j]);
        }
    }
    const int32_t* totals = m.sums.data() + size_t(group) * kGroup;
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 4; ++j) {
            const __m512i excess = _mm512_slli_epi32(_mm512_loadu_si512(totals + 16 * j), 7);
            _mm512_storeu_si512(out + r * kGroup + 16 * j, _mm512_sub_epi32(sums[r][j], excess));
        }
}

TARGET_VNNI void product_int8_512(const Matrix& m, int group, const Rows& x, int first, int rows, void* out) {
    auto* o = static_cast<int32_t*>(out);
    int r = 0;
    for (; r + 4 <= rows; r += 4) int8_rows<4>(m, group, x, first + r, o + r * kGroup);
    for (; r < rows; ++r) int8_rows<1>(m, group, x, first + r, o + r * kGroup);
}

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t columns[16] = {};
    uint8_t rows[16] = {};
};

// Sets the tiles up for as long as it lives, and leaves what other code on this thread had set up as it was.
class Tiles {
  public:
    TARGET_AMX Tiles() {
        _tile_storeconfig(&previous_);
        TileConfig config;
        for (int t = 0; t < 8; ++t) {
            config.columns[t] = 64;
            config.rows[t] = kTileRows;
        }
        everything_is_in_memory();
        _tile_loadconfig(&config);
    }
    TARGET_AMX ~Tiles() {
        everything_is_in_memory();
        if (previous_.palette) _tile_loadconfig(&previous_);
        else _tile_release();
    }

  private:
    // GCC's intrinsics tell the compiler of the first bytes of a configuration alone.
    static INLINE void everything_is_in_memory() { __asm__ volatile("" ::: "memory"); }

    TileConfig previous_;
};

// Tiles 0-3: sums of the four blocks of 16 outputs; 4: activations; 5-7: weights.
TARGET_AMX void product_int8_amx(const Matrix& m, int group, const Rows& x, int first, int, void* out) {
    const char* w = m.group(group);
    const char* v = x.row(first);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < m.lines; k += kTileRows, w += kTileRows * kLine, v += 64) {
        _tile_loadd(4, v, x.stride);
        _tile_loadd(5, w, kLine);
        _tile_dpbssd(0, 4, 5);
        _tile_loadd(6, w + 64, kLine);
        _tile_dpbssd(1, 4, 6);
        _tile_loadd(7, w + 128, kLine);
        _tile_dpbssd(2, 4, 7);
        _tile_loadd(5, w + 192, kLine);
        _tile_dpbssd(3, 4, 5);
    }
    char* o = static_cast<char*>(out);
    _tile_stored(0, o, kLine);
    _tile_stored(1, o + 64, kLine);
    _tile_stored(2, o + 128, kLine);
    _tile_stored(3, o + 192, kLine);
}

TARGET_AMX void product_bfloat16_amx(const Matrix& m, int group, const Rows& x, int first, int, void* out) {
    const char* w = m.group(group);
    const char* v = x.row(first);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < m.lines; k += kTileRows, w += kTileRows * kLine, v += 64) {
        _tile_loadd(4, v, x.stride);
        _tile_loadd(5, w, kLine);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(6, w + 64, kLine);
        _tile_dpbf16ps(1, 4, 6);
        _tile_loadd(7, w + 128, kLine);
        _tile_dpbf16ps(2, 4, 7);
        _tile_loadd(5, w + 192, kLine);
        _tile_dpbf16ps(3, 4, 5);
    }
    char* o = static_cast<char*>(out);
    _tile_stored(0, o, kLine);
    _tile_stored(1, o + 64, kLine);
    _tile_stored(2, o + 128, kLine);
    _tile_stored(3, o + 192, kLine);
}

#endif

// One choice per number type for the life of the process: two would round differently.
struct Choice {
    Product product;
    bool tiles;
};

Choice choose(Type type) {
#ifdef CAROUSEL_X86
    const Processor& p = processor();
    if (type == kFloat32 && p.avx512) return {product_float32_512, false};
    if (type == kBFloat16 && p.amx_bf16) return {product_bfloat16_amx, true};
    if (type == kBFloat16 && p.bf16) return {product_bfloat16_512, false};
    if (type == kInt8 && p.amx_int8) return {product_int8_amx, true};
    if (type == kInt8 && p.vnni) return {product_int8_512, false};
#endif
    return {type == kFloat32 ? product_float32 : type == kBFloat16 ? product_bfloat16 : product_int8, false};
}

// out[r][n] = add[r][n] + sums, dequantised. add may be out itself.
CLONES void finish(const Matrix& m, int group, const Rows& x, int first, int rows, const void* sums, const float* add,
                   int add_stride, float* out) {
    for (int r = 0; r < rows; ++r) {
        const float* a = add + size_t(r) * add_stride;
        float* o = out + size_t(r) * kGroup;
        if (m.type == kInt8) {
            const float scale = x.scale.get()[first + r];
            const auto* s = static_cast<const int32_t*>(sums) + r * kGroup;
            const float* w = m.scale.data() + size_t(group) * kGroup;
            for (int n = 0; n < kGroup; ++n) o[n] = a[n] + float(s[n]) * (scale * w[n]);
        } else {
            const auto* s = static_cast<const float*>(sums) + r * kGroup;
            for (int n = 0; n < kGroup; ++n) o[n] = a[n] + s[n];
        }
    }
}

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

// ---- the network -------------------------------------------------------------------------------------------------

struct Layer {
    int inputs, hidden;
    std::unique_ptr<Matrix> from_input, from_hidden;
    std::vector<float> bias;  // in the order of the packed outputs
};

struct Linear {
    std::unique_ptr<Matrix> matrix;
    std::vector<float> bias;
};

// What one group of 64 outputs contributes to the score of one row: the largest logit, the sum of exp(logit - largest),
// and how many logits are above the target's.
struct Share {
    float largest, sum;
    int above;
};

struct Network {
    Type type;
    Choice choice;
    Pool pool;
    const float* embedding;
    int embedding_size, vocabulary;
    float embedding_scale;
    std::vector<Layer> layers;
    Linear projection, output;  // projection.matrix may be empty
    Rows inputs, hiddens;
    Buffer<float> x, y, gates, h, c, target_logits;
    Buffer<Share> shares;

    Network(Type t, int threads) : type(t), choice(choose(t)), pool(threads) {}

    int state_size() const {
        int size = 0;
        for (const Layer& layer : layers) size += 2 * layer.hidden;
        return size;
    }
    int feature_size() const { return projection.matrix ? projection.matrix->outputs : layers.back().hidden; }
};

// Item i of a job, with the tiles set up around it where the product needs them.
template <typename F>
void for_items(Network& net, int count, const F& item) {
#ifdef CAROUSEL_X86
    if (net.choice.tiles) {
        net.pool.run(count, [&](int i) {
            Tiles tiles;
            item(i);
        });
        return;
    }
#endif
    net.pool.run(count, item);
}

void set_rows(Network& net, Rows& rows, const Matrix& m, const float* x, int stride, int count) {
    rows.prepare(count, m);
    constexpr int kChunk = 8;
    net.pool.run((count + kChunk - 1) / kChunk, [&](int i) {
        for (int r = i * kChunk; r < std::min(count, (i + 1) * kChunk); ++r) rows.set(r, x + size_t(r) * stride, m);
    });
}

// y (count, outputs) = x (count, inputs) times the matrix, plus bias.
void linear(Network& net, const Linear& l, const float* x, int stride, int count, float* y, int y_stride) {
    const Matrix& m = *l.matrix;
    set_rows(net, net.inputs, m, x, stride, count);
    for_items(net, m.groups, [&](int g) {
        alignas(64) char sums[kTileRows * kLine];
        alignas(64) float values[kTileRows * kGroup];
        const int width = std::min(kGroup, m.outputs - g * kGroup);
        for (int first = 0; first < count; first += kTileRows) {
            const int rows = std::min(kTileRows, count - first);
            net.choice.product(m, g, net.inputs, first, rows, sums);
            finish(m, g, net.inputs, first, rows, sums, l.bias.data() + size_t(g) * kGroup, 0, values);
            for (int r = 0; r < rows; ++r)
                std::memcpy(y + size_t(first + r) * y_stride + size_t(g) * kGroup, values + r * kGroup, size_t(width) * 4);
        }
    });
}

// One layer over T tokens of B rows, time-major: x (T * B, inputs) -> y (T * B, hidden); h, c (B, padded) are updated.
void run_layer(Network& net, const Layer& layer, const float* x, int x_stride, float* y, int y_stride, float* h, float* c,
               int padded, int batch, int length) {
    const Matrix &wx = *layer.from_input, &wh = *layer.from_hidden;
    const int all = batch * length;
    set_rows(net, net.inputs, wx, x, x_stride, all);
    float* gates = length > 1 ? net.gates.reserve(size_t(wx.groups) * all * kGroup) : nullptr;
    if (length > 1) {  // what the inputs contribute does not wait for the states: all tokens at once
        for_items(net, wx.groups, [&](int g) {
            alignas(64) char sums[kTileRows * kLine];
            for (int first = 0; first < all; first += kTileRows) {
                const int rows = std::min(kTileRows, all - first);
                net.choice.product(wx, g, net.inputs, first, rows, sums);
                finish(wx, g, net.inputs, first, rows, sums, layer.bias.data() + size_t(g) * kGroup, 0,
                       gates + (size_t(g) * all + first) * kGroup);
            }
        });
    }
    for (int t = 0; t < length; ++t) {
        set_rows(net, net.hiddens, wh, h, padded, batch);
        for_items(net, wh.groups, [&](int g) {
            alignas(64) char sums[kTileRows * kLine];
            alignas(64) float values[kTileRows * kGroup];
            const int width = std::min(kUnits, layer.hidden - g * kUnits);
            for (int first = 0; first < batch; first += kTileRows) {
                const int rows = std::min(kTileRows, batch - first);
                const float* add = values;
                if (length > 1) {
                    add = gates + (size_t(g) * all + size_t(t) * batch + first) * kGroup;
                } else {
                    net.choice.product(wx, g, net.inputs, first, rows, sums);
                    finish(wx, g, net.inputs, first, rows, sums, layer.bias.data() + size_t(g) * kGroup, 0, values);
                }
                net.choice.product(wh, g, net.hiddens, first, rows, sums);
                finish(wh, g, net.hiddens, first, rows, sums, add, kGroup, values);
                for (int r = 0; r < rows; ++r) {
                    const size_t at = size_t(first + r) * padded + size_t(g) * kUnits;
                    lstm_cell(values + r * kGroup, c + at, h + at);
                    std::memcpy(y + (size_t(t) * batch + first + r) * y_stride + size_t(g) * kUnits, h + at,
                                size_t(width) * 4);
                }
            }
        });
    }
}

// ---- scoring: log-probabilities and ranks without a (tokens x vocabulary) matrix ----------------------------------

CLONES Share share_of(const float* logits, int width, float target) {
    Share share{logits[0], 0.0f, 0};
    for (int n = 1; n < width; ++n) share.largest = std::max(share.largest, logits[n]);
    for (int n = 0; n < width; ++n) share.sum += exp_f(logits[n] - share.largest);
    for (int n = 0; n < width; ++n) share.above += logits[n] > target;
    return share;
}

void score(Network& net, int count, const float* features, const int64_t* targets, float* logprobs, int32_t* ranks) {
    const Linear& l = net.output;
    const Matrix& m = *l.matrix;
    set_rows(net, net.inputs, m, features, m.inputs, count);
    float* target_logits = net.target_logits.reserve(count);
    for_items(net, count, [&](int r) {  // each from its own group, in the same way as below
        alignas(64) char sums[kTileRows * kLine];
        alignas(64) float values[kTileRows * kGroup];
        const int g = int(targets[r] / kGroup);
        net.choice.product(m, g, net.inputs, r, 1, sums);
        finish(m, g, net.inputs, r, 1, sums, l.bias.data() + size_t(g) * kGroup, 0, values);
        target_logits[r] = values[targets[r] % kGroup];
    });
    Share* shares = net.shares.reserve(size_t(count) * m.groups);
    for_items(net, m.groups, [&](int g) {
        alignas(64) char sums[kTileRows * kLine];
        alignas(64) float values[kTileRows * kGroup];
        const int width = std::min(kGroup, m.outputs - g * kGroup);
        for (int first = 0; first < count; first += kTileRows) {
            const int rows = std::min(kTileRows, count - first);
            net.choice.product(m, g, net.inputs, first, rows, sums);
            finish(m, g, net.inputs, first, rows, sums, l.bias.data() + size_t(g) * kGroup, 0, values);
            for (int r = 0; r < rows; ++r)
                shares[size_t(first + r) * m.groups + g] = share_of(values + r * kGroup, width, target_logits[first + r]);
        }
    });
    net.pool.run(count, [&](int r) {
        const Share* row = shares + size_t(r) * m.groups;
        float largest = row[0].largest;
        for (int g = 1; g < m.groups; ++g) largest = std::max(largest, row[g].largest);
        double total = 0.0;
        int above = 0;
        for (int g = 0; g < m.groups; ++g) {
            total += double(row[g].sum) * std::exp(double(row[g].largest) - largest);
            above += row[g].above;
        }
        logprobs[r] = float(double(target_logits[r]) - largest - std::log(total));
        ranks[r] = above + 1;
    });
}

// ---- sampling: one uniform number and the inverse of the cumulative distribution -----------------------------------

// As in models/native/__init__.py. Token ids below 0 ban nothing.
struct Draw {
    uint64_t seed, choice, position;
    float temperature;  // 0: the likeliest
    float top_p, min_p;
    int32_t top_k;
    int32_t banned[2];
};

uint64_t splitmix64(uint64_t x) {  // Steele et al. 2014, figure 17
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

// As models/sampling.py's `uniforms`.
double uniform(const Draw& draw) {
    const uint64_t bits = splitmix64(splitmix64(splitmix64(draw.seed) ^ draw.choice) ^ draw.position);
    return double(bits >> 11) * 0x1p-53;
}

constexpr int kLevels = 10;  // thresholds tried before all tokens are sorted: 4^-1 … 4^-10
constexpr int kBlock = 256;  // tokens whose mass is summed before it is looked at one by one

CLONES float largest_of(const float* logits, int count) {
    float largest = -INFINITY;
    for (int i = 0; i < count; ++i) largest = std::max(largest, logits[i]);
    return largest;
}

// masses[i] = exp((logits[i] - largest) / temperature), so the largest is 1.
CLONES void masses_of(const float* logits, int count, float largest, float inverse_temperature, float* masses) {
    for (int i = 0; i < count; ++i) {
        const float x = (logits[i] - largest) * inverse_temperature;
        masses[i] = x < -87.0f ? 0.0f : exp_f(x);
    }
}

// Sixteen sums side by side, joined in a fixed order.
CLONES float sum_of(const float* values, int count) {
    float lanes[16] = {};
    int i = 0;
    for (; i + 16 <= count; i += 16)
        for (int lane = 0; lane < 16; ++lane) lanes[lane] += values[i + lane];
    for (int lane = 0; i < count; ++i, ++lane) lanes[lane] += values[i];
    float sum = 0.0f;
    for (float lane : lanes) sum += lane;
    return sum;
}

#ifdef CAROUSEL_X86
// The three loops that see every token of the vocabulary, sixteen at a time; lanes past the end count for nothing.
TARGET_512 __m512 lanes_of(const float* values, int i, int count, float rest) {
    const int left = count - i;
    const __mmask16 real = left >= 16 ? 0xffff : __mmask16((1u << left) - 1);
    return _mm512_mask_loadu_ps(_mm512_set1_ps(rest), real, values + i);
}

TARGET_512 float largest_512(const float* logits, int count) {
    __m512 largest = _mm512_set1_ps(-INFINITY);
    for (int i = 0; i < count; i += 16) largest = _mm512_max_ps(largest, lanes_of(logits, i, count, -INFINITY));
    return _mm512_reduce_max_ps(largest);
}

TARGET_512 float sum_512(const float* values, int count) {
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < count; i += 16) sum = _mm512_add_ps(sum, lanes_of(values, i, count, 0.0f));
    return _mm512_reduce_add_ps(sum);
}

// exp_f, on sixteen values.
TARGET_512 __m512 exp_512(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    p = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

TARGET_512 void masses_512(const float* logits, int count, float largest, float inverse_temperature, float* masses) {
    const __m512 top = _mm512_set1_ps(largest), scale = _mm512_set1_ps(inverse_temperature);
    for (int i = 0; i < count; i += 16) {
        const int left = count - i;
        const __mmask16 real = left >= 16 ? 0xffff : __mmask16((1u << left) - 1);
        const __m512 x = _mm512_mul_ps(_mm512_sub_ps(lanes_of(logits, i, count, -INFINITY), top), scale);
        const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GE_OQ);
        _mm512_mask_storeu_ps(masses + i, real, _mm512_maskz_mov_ps(counts, exp_512(x)));
    }
}

// The mass and the number of tokens whose mass reaches a threshold.
TARGET_512 void above_512(const float* masses, int count, float threshold, float* mass, int* number) {
    const __m512 least = _mm512_set1_ps(threshold);
    __m512 sum = _mm512_setzero_ps();
    *number = 0;
    for (int i = 0; i < count; i += 16) {
        const __m512 x = lanes_of(masses, i, count, 0.0f);
        const __mmask16 above = _mm512_cmp_ps_mask(x, least, _CMP_GE_OQ);
        sum = _mm512_mask_add_ps(sum, above, sum, x);
        *number += __builtin_popcount(above);
    }
    *mass = _mm512_reduce_add_ps(sum);
}
#endif

float largest_logit(const float* logits, int count) {
#ifdef CAROUSEL_X86
    if (processor().avx512) return largest_512(logits, count);
#endif
    return largest_of(logits, count);
}

float mass_sum(const float* masses, int count) {
#ifdef CAROUSEL_X86
    if (processor().avx512) return sum_512(masses, count);
#endif
    return sum_of(masses, count);
}

void make_masses(const float* logits, int count, float largest, float inverse_temperature, float* masses) {
#ifdef CAROUSEL_X86
    if (processor().avx512) return masses_512(logits, count, largest, inverse_temperature, masses);
#endif
    masses_of(logits, count, largest, inverse_temperature, masses);
}

CLONES void above_of(const float* masses, int count, float threshold, float* mass, int* number) {
    float lanes[16] = {};
    int counts[16] = {};
    int i = 0;
    for (; i + 16 <= count; i += 16)
        for (int lane = 0; lane < 16; ++lane) {
            const bool above = masses[i + lane] >= threshold;
            lanes[lane] += above ? masses[i + lane] : 0.0f;
            counts[lane] += above;
        }
    for (int lane = 0; i < count; ++i, ++lane) {
        const bool above = masses[i] >= threshold;
        lanes[lane] += above ? masses[i] : 0.0f;
        counts[lane] += above;
    }
    *mass = 0.0f;
    *number = 0;
    for (int lane = 0; lane < 16; ++lane) {
        *mass += lanes[lane];
        *number += counts[lane];
    }
}

void mass_above(const float* masses, int count, float threshold, float* mass, int* number) {
#ifdef CAROUSEL_X86
    if (processor().avx512) return above_512(masses, count, threshold, mass, number);
#endif
    above_of(masses, count, threshold, mass, number);
}

int draw_plain(const float* masses, int count, double number, float* blocks) {
    double total = 0.0;
    const int last = (count + kBlock - 1) / kBlock - 1;
    for (int b = 0; b <= last; ++b) {
        blocks[b] = mass_sum(masses + b * kBlock, std::min(kBlock, count - b * kBlock));
        total += blocks[b];
    }
    double left = number * total;
    int b = 0;
    while (b < last && left >= blocks[b]) left -= blocks[b++];
    while (b > 0 && blocks[b] <= 0.0f) --b;  // rounding may have led past the last mass
    int chosen = -1;
    for (int i = b * kBlock; i < std::min(count, (b + 1) * kBlock); ++i) {
        if (masses[i] <= 0.0f) continue;
        chosen = i;
        left -= masses[i];
        if (left < 0.0) break;
    }
    return chosen;
}

struct Candidate {
    float mass;
    int id;
};

// top-k, then top-p on what is left, then min-p; the fewest likeliest tokens, the lower id first among equals. Only
// tokens above a threshold that is sure to keep enough of them are sorted.
int draw_filtered(const float* masses, int count, const Draw& draw, std::vector<Candidate>& candidates) {
    const float total = mass_sum(masses, count);
    const int wanted = draw.top_k > 0 ? std::min(draw.top_k, count) : 0;
    float threshold = 0.0f;
    for (int level = 1; level <= kLevels; ++level) {
        const float trial = std::ldexp(1.0f, -2 * level);
        float mass;
        int number;
        mass_above(masses, count, trial, &mass, &number);
        const bool enough_k = wanted > 0 && number >= wanted;
        const bool enough_p = draw.top_p < 1.0f && mass >= draw.top_p * total * 1.0001f;
        const bool enough_min = draw.min_p > 0.0f && trial <= draw.min_p;
        if (enough_k || enough_p || enough_min) {
            threshold = trial;
            break;
        }
    }
    candidates.clear();
    for (int i = 0; i < count; ++i)
        if (masses[i] >= threshold && masses[i] > 0.0f) candidates.push_back({masses[i], i});
    std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
        return a.mass != b.mass ? a.mass > b.mass : a.id < b.id;
    });
    size_t kept = candidates.size();
    if (wanted > 0) kept = std::min(kept, size_t(wanted));
    if (draw.top_p < 1.0f) {
        double mass = total;
        if (wanted > 0) {  // renormalised over what top-k left
            mass = 0.0;
            for (size_t i = 0; i < kept; ++i) mass += candidates[i].mass;
        }
        double before = 0.0;
        size_t n = 0;
        while (n < kept && (n == 0 || before < double(draw.top_p) * mass)) before += candidates[n++].mass;
        kept = n;
    }
    if (draw.min_p > 0.0f)
        while (kept > 1 && candidates[kept - 1].mass < draw.min_p * candidates[0].mass) --kept;
    double mass = 0.0;
    for (size_t i = 0; i < kept; ++i) mass += candidates[i].mass;
    double left = uniform(draw) * mass;
    for (size_t i = 0; i < kept; ++i) {
        left -= candidates[i].mass;
        if (left < 0.0) return candidates[i].id;
    }
    return candidates[kept - 1].id;
}

struct Scratch {
    Buffer<float> masses, blocks;
    std::vector<Candidate> candidates;
};

int draw_row(const float* logits, int count, const Draw& draw, Scratch& scratch) {
    float* masses = scratch.masses.reserve(count);
    float* blocks = scratch.blocks.reserve(count / kBlock + 1);
    std::memcpy(masses, logits, size_t(count) * 4);
    for (int banned : draw.banned)
        if (banned >= 0) masses[banned] = -INFINITY;
    const float largest = largest_logit(masses, count);
    if (draw.temperature <= 0.0f) {
        int i = 0;
        while (masses[i] != largest) ++i;
        return i;
    }
    make_masses(masses, count, largest, 1.0f / draw.temperature, masses);
    const bool filtered = draw.top_k > 0 || draw.top_p < 1.0f || draw.min_p > 0.0f;
    return filtered ? draw_filtered(masses, count, draw, scratch.candidates)
                    : draw_plain(masses, count, uniform(draw), blocks);
}

void sample(Network& net, int count, const float* logits, const Draw* draws, int64_t* ids) {
    const int width = net.output.matrix->outputs;
    net.pool.run(count, [&](int r) {
        thread_local Scratch scratch;
        ids[r] = draw_row(logits + size_t(r) * width, width, draws[r], scratch);
    });
}

int padded_units(int hidden) { return (hidden + kUnits - 1) / kUnits * kUnits; }

}  // namespace

// ---- what Python calls; lengths are checked there ------------------------------------------------------------------

extern "C" {

// Bits: 1 AVX-512, 2 VNNI, 4 AVX-512 bfloat16, 8 AMX int8, 16 AMX bfloat16.
int carousel_processor() {
    const Processor& p = processor();
    return p.avx512 | p.vnni << 1 | p.bf16 << 2 | p.amx_int8 << 3 | p.amx_bf16 << 4;
}

void* carousel_network(int type, int threads, const float* embedding, int vocabulary, int embedding_size, float scale) {
    auto* net = new Network(Type(type), threads);
    net->embedding = embedding;
    net->vocabulary = vocabulary;
    net->embedding_size = embedding_size;
    net->embedding_scale = scale;
    return net;
}

void carousel_free(void* network) { delete static_cast<Network*>(network); }

// order: (outputs,), the row of each packed output. bias: (outputs,), in that order.
void carousel_add_layer(void* network, const float* from_input, const float* from_hidden, const float* bias,
                        const int32_t* order, int outputs, int inputs, int hidden) {
    auto* net = static_cast<Network*>(network);
    Layer layer;
    layer.inputs = inputs;
    layer.hidden = hidden;
    layer.from_input.reset(pack(from_input, order, outputs, inputs, net->type));
    layer.from_hidden.reset(pack(from_hidden, order, outputs, hidden, net->type));
    layer.bias.assign(bias, bias + outputs);
    net->layers.push_back(std::move(layer));
}

// which: 0 the projection, 1 the output. bias: (outputs rounded up to 64,).
void carousel_set_linear(void* network, int which, const float* weights, const float* bias, const int32_t* order,
                         int outputs, int inputs) {
    auto* net = static_cast<Network*>(network);
    Linear& l = which ? net->output : net->projection;
    l.matrix.reset(pack(weights, order, outputs, inputs, net->type));
    l.bias.assign(bias, bias + size_t(l.matrix->groups) * kGroup);
}

int64_t carousel_bytes(void* network) {
    auto* net = static_cast<Network*>(network);
    int64_t bytes = net->output.matrix->bytes();
    if (net->projection.matrix) bytes += net->projection.matrix->bytes();
    for (const Layer& layer : net->layers) bytes += layer.from_input->bytes() + layer.from_hidden->bytes();
    return bytes;
}

// ids: (B, T). states: (rows, S), updated at slots: (B,). features: (B, T, P), out.
void carousel_run(void* network, int batch, int length, const int64_t* ids, float* states, const int64_t* slots,
                  float* features) {
    auto& net = *static_cast<Network*>(network);
    const int all = batch * length, state_size = net.state_size(), width = net.feature_size();
    int widest = net.embedding_size;
    for (const Layer& layer : net.layers) widest = std::max(widest, padded_units(layer.hidden));
    float* x = net.x.reserve(size_t(all) * widest);
    float* y = net.y.reserve(size_t(all) * widest);
    for (int b = 0; b < batch; ++b)
        for (int t = 0; t < length; ++t) {
            const float* row = net.embedding + size_t(ids[size_t(b) * length + t]) * net.embedding_size;
            float* to = x + (size_t(t) * batch + b) * widest;
            for (int k = 0; k < net.embedding_size; ++k) to[k] = row[k] * net.embedding_scale;
        }
    int offset = 0;
    for (const Layer& layer : net.layers) {
        const int padded = padded_units(layer.hidden);
        float* h = net.h.reserve(size_t(batch) * padded);
        float* c = net.c.reserve(size_t(batch) * padded);
        for (int b = 0; b < batch; ++b) {
            const float* state = states + size_t(slots[b]) * state_size + offset;
            std::memcpy(h + size_t(b) * padded, state, size_t(layer.hidden) * 4);
            std::memcpy(c + size_t(b) * padded, state + layer.hidden, size_t(layer.hidden) * 4);
        }
        run_layer(net, layer, x, widest, y, widest, h, c, padded, batch, length);
        for (int b = 0; b < batch; ++b) {
            float* state = states + size_t(slots[b]) * state_size + offset;
            std::memcpy(state, h + size_t(b) * padded, size_t(layer.hidden) * 4);
            std::memcpy(state + layer.hidden, c + size_t(b) * padded, size_t(layer.hidden) * 4);
        }
        offset += 2 * layer.hidden;
        std::swap(x, y);
    }
    if (net.projection.matrix) {
        linear(net, net.projection, x, widest, all, y, widest);
        std::swap(x, y);
    }
    for (int t = 0; t < length; ++t)
        for (int b = 0; b < batch; ++b)
            std::memcpy(features + (size_t(b) * length + t) * width, x + (size_t(t) * batch + b) * widest, size_t(width) * 4);
}

// The features of states: (rows, S) at slots: (N,), as they were when the states were left. features: (N, P), out.
void carousel_readout(void* network, int count, const float* states, const int64_t* slots, float* features) {
    auto& net = *static_cast<Network*>(network);
    const int hidden = net.layers.back().hidden, state_size = net.state_size(), width = net.feature_size();
    float* x = net.x.reserve(size_t(count) * hidden);
    for (int i = 0; i < count; ++i)
        std::memcpy(x + size_t(i) * hidden, states + size_t(slots[i]) * state_size + state_size - 2 * hidden,
                    size_t(hidden) * 4);
    if (net.projection.matrix) linear(net, net.projection, x, hidden, count, features, width);
    else std::memcpy(features, x, size_t(count) * hidden * 4);
}

// features: (N, P) -> logits: (N, V).
void carousel_logits(void* network, int count, const float* features, float* logits) {
    auto& net = *static_cast<Network*>(network);
    const int width = net.output.matrix->outputs;
    linear(net, net.output, features, net.output.matrix->inputs, count, logits, width);
}

// Log-probabilities and ranks of targets: (N,) each, from features: (N, P).
void carousel_score(void* network, int count, const float* features, const int64_t* targets, float* logprobs,
                    int32_t* ranks) {
    score(*static_cast<Network*>(network), count, features, targets, logprobs, ranks);
}

// One token for each row of logits (N, V).
void carousel_sample(void* network, int count, const float* logits, const Draw* draws, int64_t* ids) {
    sample(*static_cast<Network*>(network), count, logits, draws, ids);
}

}  // extern "C"
