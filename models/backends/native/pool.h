// Threads that share the items of a job.
#pragma once

#include "base.h"

namespace {

// Runs the items of a job on this thread and on helpers that are awake. The caller never waits for a helper to wake:
// only items that a helper has begun are waited for.
//
// Each thread has a range of the items, the same one whenever a job has as many, so that the weights it reads may stay
// in its own cache; who is through with its range takes from the others'.
class Pool {
  public:
    explicit Pool(int threads) : ranges_(std::max(1, threads)) {
        for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
    }

    ~Pool() {
        stopping_.store(true);
        wake();
        for (auto& worker : workers_) worker.join();
    }

    int threads() const { return int(ranges_.size()); }

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
        const int threads = int(ranges_.size());
        for (int i = 0; i < threads; ++i) {
            const uint64_t next = uint64_t(count) * i / threads, end = uint64_t(count) * (i + 1) / threads;
            ranges_[i].ticket.store(uint64_t(generation_ & 0xffff) << kGenerationShift | end << kEndShift | next);
        }
#ifdef CAROUSEL_X86
        caller_cpu_.store(sched_getcpu(), std::memory_order_relaxed);
#endif
        wake();
        take(0);
        while (job.done.load(std::memory_order_acquire) < count) pause();
    }

  private:
    struct Job {
        const void* context = nullptr;
        void (*call)(const void*, int) = nullptr;
        alignas(64) std::atomic<int> done{0};
    };

    // A ticket says which job, where the range ends, and which item is next: whoever draws one needs nothing else to
    // know whether the item exists, so a helper that comes late does no harm.
    struct alignas(64) Range {
        std::atomic<uint64_t> ticket{0};
    };

    static constexpr int kEndShift = 24, kGenerationShift = 48;
    static constexpr uint64_t kMask = (1 << 24) - 1;
    static constexpr int kSpins = 4000;  // some tens of microseconds: the gap between two passes of one step

    void take(int self) {
        const int threads = int(ranges_.size());
        for (int offset = 0; offset < threads; ++offset) {
            std::atomic<uint64_t>& range = ranges_[(self + offset) % threads].ticket;
            while (has_items(range.load(std::memory_order_relaxed))) {
                const uint64_t ticket = range.fetch_add(1);
                if (!has_items(ticket)) break;
                Job& job = jobs_[ticket >> kGenerationShift & 1];
                job.call(job.context, int(ticket & kMask));
                job.done.fetch_add(1, std::memory_order_release);
            }
        }
    }

    void work(int self) {
        uint32_t seen = 0;
        while (!stopping_.load()) {
            take(self);
            uint32_t now = signal_.load(std::memory_order_relaxed);
            for (int spin = 0; spin < kSpins && now == seen; ++spin) {
                pause();
                now = signal_.load(std::memory_order_relaxed);
            }
            if (now == seen) signal_.wait(seen);
            leave_callers_cpu();
            seen = signal_.load();
        }
    }

    // The scheduler may wake a helper where the caller runs, and leave both there for seconds: half the speed.
    void leave_callers_cpu() {
#ifdef CAROUSEL_X86
        const int cpu = sched_getcpu();
        cpu_set_t allowed, others;
        if (cpu != caller_cpu_.load(std::memory_order_relaxed) || sched_getaffinity(0, sizeof allowed, &allowed)) return;
        others = allowed;
        CPU_CLR(cpu, &others);
        if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others)) return;
        sched_setaffinity(0, sizeof allowed, &allowed);
#endif
    }

    void wake() {
        signal_.fetch_add(1);
        signal_.notify_all();
    }

    static bool has_items(uint64_t ticket) { return (ticket & kMask) < (ticket >> kEndShift & kMask); }

    static void pause() {
#ifdef CAROUSEL_X86
        _mm_pause();
#endif
    }

    std::vector<Range> ranges_;
    alignas(64) std::atomic<uint32_t> signal_{0};  // grows with every job
    std::atomic<int> caller_cpu_{-1};
    std::atomic<bool> stopping_{false};
    Job jobs_[2];
    uint32_t generation_ = 0;
    std::vector<std::thread> workers_;
};

}  // namespace
