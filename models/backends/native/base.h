// What every kernel stands on: how code is compiled for several processors, what this one offers, number types.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__linux__)
#define CAROUSEL_X86 1
#include <immintrin.h>
#include <sched.h>
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
#ifdef _MSC_VER
#define INLINE __forceinline
#else
#define INLINE inline __attribute__((always_inline))
#endif
#define INLINE_BF16 TARGET_BF16 __attribute__((always_inline))  // of lambdas

namespace {

constexpr int kGroup = 64;       // outputs of a group
constexpr int kUnits = 16;       // LSTM units of a group
constexpr int kLine = 256;       // bytes of a line
constexpr int kTileRows = 16;    // rows of an AMX tile; row buffers have as many to spare

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

    int bits() const { return avx512 | vnni << 1 | bf16 << 2 | amx_int8 << 3 | amx_bf16 << 4; }

    // What is both here and in `bits`.
    Processor limited_to(int bits) const {
        Processor limited = *this;
        limited.avx512 &= bits & 1;
        limited.vnni &= limited.avx512 && bits >> 1 & 1;
        limited.bf16 &= limited.avx512 && bits >> 2 & 1;
        limited.amx_int8 &= limited.avx512 && bits >> 3 & 1;
        limited.amx_bf16 &= limited.avx512 && bits >> 4 & 1;
        return limited;
    }
};

const Processor& processor() {
    static const Processor found;
    return found;
}

}  // namespace
