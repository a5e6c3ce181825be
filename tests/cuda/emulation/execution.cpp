// execution.cpp - runs the blocks of a launch one after another, and the threads of a block as fibers.
//
// A worker is a stack that runs threads to their end, one by one in the order of the schedule; only when a thread waits
// for others, its worker is left suspended and another goes on. A kernel without barriers so costs no switch at all.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <vector>

#include "emulation.h"

extern "C" {
Index threadIdx, blockIdx, blockDim, gridDim;
extern char* const cuda_on_cpu_dynamic_shared;
}
Launch launch;
Report report;
unsigned block_number, thread_number;
char *arena, *stacks_begin, *stacks_end, *shadow;

namespace {

constexpr size_t STACK = 256 << 10, PAGE = 4096;

enum class State { fresh, ready, waiting, exited };
enum Meeting {
    syncthreads, count, all_of_block, any_of_block,  // of a block
    syncwarp, shfl, shfl_up, shfl_down, shfl_xor, ballot, any, all,  // of a warp
};
const char* const NAMES[] = {
    "__syncthreads",  "__syncthreads_count", "__syncthreads_and", "__syncthreads_or", "__syncwarp",   "__shfl_sync",
    "__shfl_up_sync", "__shfl_down_sync",    "__shfl_xor_sync",   "__ballot_sync",    "__any_sync", "__all_sync",
};

struct Thread {
    State state;
    int meeting, line;      // where it waits
    unsigned mask;          // of a warp's meeting
    int source;             // the lane that a shuffle reads
    uint64_t value, result;
    jmp_buf context;
};
Thread threads[MAX_THREADS];

struct Worker {
    bool started;
    jmp_buf context;
};
Worker workers[MAX_THREADS + 1];
std::vector<unsigned> idle_workers;

jmp_buf scheduler;
std::vector<unsigned> sequence;
size_t position;
unsigned thread_count, alive, waiting_for_block;
bool progressed, failed;

// Steele, Lea & Flood 2014 (SplitMix64): a whole generator in five lines, the same on every machine.
uint64_t random_state;
uint64_t draw() {
    uint64_t z = random_state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

// CUDA promises no order among threads or blocks, so a right kernel gives the same in each of these.
void arrange(std::vector<unsigned>& numbers, unsigned count) {
    numbers.resize(count);
    for (unsigned i = 0; i < count; ++i) numbers[i] = launch.order == 1 ? count - 1 - i : i;
    if (launch.order == 2)
        for (unsigned i = count; i > 1; --i) std::swap(numbers[i - 1], numbers[draw() % i]);
}

Index unravel(unsigned number, Index size) {
    return {number % size.x, number / size.x % size.y, number / size.x / size.y};
}

void enter(unsigned number) {
    thread_number = number;
    threadIdx = unravel(number, blockDim);
}

[[noreturn]] void to_scheduler() { _longjmp(scheduler, 1); }

void make_ready(Thread& thread) {
    thread.state = State::ready;
    progressed = true;
}

// Whether two threads wait for the same meeting at the same place.
bool beside(const Thread& a, const Thread& b) {
    return a.state == State::waiting && b.state == State::waiting && a.meeting == b.meeting && a.line == b.line &&
           a.mask == b.mask;
}

// Lets the lanes that meet where `member` waits go on, if all of its mask are there or have left the kernel.
void complete_warp(unsigned first, const Thread& member) {
    Thread* const warp = threads + first;
    const int meeting = member.meeting;
    unsigned present = 0, predicates = 0;
    for (unsigned i = 0; i < WARP && first + i < thread_count; ++i) {
        const Thread& other = warp[i];
        if (!(member.mask >> i & 1) || other.state == State::exited) continue;
        if (!beside(other, member)) return;
        present |= 1u << i;
        predicates |= static_cast<unsigned>(other.value != 0) << i;
    }
    for (unsigned i = 0; i < WARP; ++i) {
        if (!(present >> i & 1)) continue;
        Thread& other = warp[i];
        switch (meeting) {
            case ballot: other.result = predicates; break;
            case any: other.result = predicates != 0; break;
            case all: other.result = predicates == present; break;
            // What a lane outside the mask would give is undefined: here NaN, if it is used as a float.
            default: other.result = present >> (other.source & 31) & 1 ? warp[other.source & 31].value : ~0ULL;
        }
        make_ready(other);
    }
    if (meeting == syncwarp) order_warp(first, present);  // shuffles and votes order no memory accesses
}

// Who has left is waited for no longer.
void leave() {
    Thread& self = threads[thread_number];
    self.state = State::exited;
    --alive;
    progressed = true;
    const unsigned first = thread_number / WARP * WARP;
    for (unsigned i = first; i < first + WARP && i < thread_count; ++i)
        if (threads[i].state == State::waiting && threads[i].meeting >= syncwarp) complete_warp(first, threads[i]);
}

// A worker: takes threads from the schedule as long as the next one has not begun.
void work(int number) {
    for (;;) {
        while (position < sequence.size() && threads[sequence[position]].state == State::fresh) {
            enter(sequence[position++]);
            launch.thread(launch.arguments);
            leave();
        }
        idle_workers.push_back(static_cast<unsigned>(number));
        if (!_setjmp(workers[number].context)) to_scheduler();
    }
}

[[noreturn]] void resume_worker() {
    const unsigned number = idle_workers.back();
    idle_workers.pop_back();
    Worker& worker = workers[number];
    if (worker.started) _longjmp(worker.context, 1);
    worker.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_link = nullptr;
    context.uc_stack.ss_sp = stacks_begin + number * STACK + PAGE;
    context.uc_stack.ss_size = STACK - PAGE;
    makecontext(&context, reinterpret_cast<void (*)()>(work), 1, static_cast<int>(number));
    setcontext(&context);
    __builtin_unreachable();
}

// What was suspended on a stack is given up; a kernel holds nothing that would have to be released.
void reset_workers() {
    idle_workers.clear();
    for (unsigned i = MAX_THREADS + 1; i-- > 0;) {
        workers[i].started = false;
        idle_workers.push_back(i);
    }
}

void suspend(Thread& thread) {
    if (!_setjmp(thread.context)) to_scheduler();
}

// Some threads wait and none can go on: which, where, and how many have left the kernel.
[[noreturn]] void fail_divergent() {
    char places[300] = "";
    size_t used = 0;
    int line = 0;
    for (unsigned i = 0; i < thread_count; ++i) {
        const Thread& first = threads[i];
        if (first.state != State::waiting) continue;
        const auto with_it = [&](const Thread& other) { return beside(first, other); };
        if (std::any_of(threads, threads + i, with_it)) continue;  // counted already
        if (!line) line = first.line;
        char mask[24] = "";
        if (first.meeting >= syncwarp) snprintf(mask, sizeof mask, " with mask 0x%08x", first.mask);
        used += snprintf(places + used, sizeof places - used, "%s%d at %s in line %d%s", used ? ", " : "",
                         static_cast<int>(std::count_if(threads + i, threads + thread_count, with_it)),
                         NAMES[first.meeting], first.line, mask);
        if (used >= sizeof places) break;
    }
    fail(Violation::barrier, line, "of %u threads %u wait for ever (%s) and %u have left the kernel", thread_count,
         alive, places, thread_count - alive);
}

bool run_block() {
    alive = thread_count;
    waiting_for_block = 0;
    for (unsigned i = 0; i < thread_count; ++i) threads[i].state = State::fresh;
    if (launch.image[2]) memset(launch.image[2], 0xFF, launch.image[3] - launch.image[2]);  // NaN, as a float
    memset(cuda_on_cpu_dynamic_shared, 0xFF, launch.slots[DYNAMIC_SHARED].size);
    check_block();
    while (alive) {
        arrange(sequence, thread_count);
        progressed = false;
        position = 0;
        if (_setjmp(scheduler) && failed) return false;  // every thread that stops comes back here
        while (position < sequence.size()) {
            Thread& thread = threads[sequence[position]];
            if (thread.state == State::fresh) resume_worker();
            if (thread.state == State::ready) {
                enter(sequence[position++]);
                _longjmp(thread.context, 1);
            }
            ++position;
        }
        if (!progressed) {
            thread_number = MAX_THREADS;  // none
            fail_divergent();
        }
    }
    return true;
}

// Whether the processor takes denormal numbers, and gives them, as zero.
void flush_denormals(bool on) {
#if defined(__x86_64__)
    constexpr unsigned TO_ZERO = 0x8040;
    const unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(on ? mode | TO_ZERO : mode & ~TO_ZERO);
#elif defined(__aarch64__)
    constexpr unsigned TO_ZERO = 1u << 24;
    const unsigned mode = __builtin_aarch64_get_fpcr();
    __builtin_aarch64_set_fpcr(on ? mode | TO_ZERO : mode & ~TO_ZERO);
#else
    static_cast<void>(on);
#endif
}

// The memory of small arrays is kept for the next launch.
void forget_large_arrays() {
    for (unsigned i = 0; i < SLOTS; ++i)
        if (launch.slots[i].size > (4 << 20)) {
            madvise(arena + i * SLOT_SIZE, SLOT_SIZE, MADV_DONTNEED);
            forget_accesses(i);
        }
}

char* map(size_t size) {
    void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return address == MAP_FAILED ? nullptr : static_cast<char*>(address);
}

// Leaves `arena` null where the system does not give so much address space.
void reserve() {
    stacks_begin = map((MAX_THREADS + 1) * STACK);
    shadow = map(SHADOW_SIZE);
    if (!stacks_begin || !shadow) return;
    stacks_end = stacks_begin + (MAX_THREADS + 1) * STACK;
    // An overflowing stack faults instead of running into its neighbour.
    for (char* stack = stacks_begin; stack < stacks_end; stack += STACK) mprotect(stack, PAGE, PROT_NONE);
    reset_workers();
    arena = map(SLOTS * SLOT_SIZE);
}

}  // namespace

void fail(Violation violation, int line, const char* format, ...) {
    failed = true;
    report.violation = violation;
    report.block = blockIdx;
    report.thread = thread_number < MAX_THREADS ? threadIdx : Index{~0u, ~0u, ~0u};
    report.line = line;
    va_list values;
    va_start(values, format);
    vsnprintf(report.text, sizeof report.text, format, values);
    va_end(values);
    reset_workers();
    to_scheduler();
}

extern "C" {

// Set before the first kernel's text is loaded, since every text reads it as a constant.
char* const cuda_on_cpu_dynamic_shared = (reserve(), arena + DYNAMIC_SHARED * SLOT_SIZE + GUARD);

char* cuda_on_cpu_arena() { return arena; }
// The launch to fill in; its slots are still those of the launch before.
Launch* cuda_on_cpu_prepare() {
    forget_large_arrays();
    return &launch;
}

// Runs the prepared launch; a report where a thread did what CUDA forbids.
const Report* cuda_on_cpu_run() {
    struct Mode {  // of the processor, while the launch runs
        Mode() { flush_denormals(launch.flush); }
        ~Mode() { flush_denormals(false); }
    } mode;
    blockDim = launch.block;
    gridDim = launch.grid;
    thread_count = blockDim.x * blockDim.y * blockDim.z;
    random_state = launch.seed;
    failed = false;
    report = {};
    check_launch();
    std::vector<unsigned> blocks;
    arrange(blocks, gridDim.x * gridDim.y * gridDim.z);
    for (unsigned number : blocks) {
        block_number = number;
        blockIdx = unravel(number, gridDim);
        if (!run_block()) return &report;
    }
    return nullptr;
}

int cuda_on_cpu_lane() { return static_cast<int>(thread_number % WARP); }

int cuda_on_cpu_meet_block(int meeting, int predicate, int line) {
    Thread& self = threads[thread_number];
    self.state = State::waiting;
    self.meeting = meeting;
    self.line = line;
    self.mask = 0;
    self.value = predicate;
    if (++waiting_for_block == thread_count) {
        unsigned hits = 0;
        for (unsigned i = 0; i < thread_count; ++i) {
            if (threads[i].meeting != meeting || threads[i].line != line) fail_divergent();
            hits += threads[i].value != 0;
        }
        const bool every = hits == thread_count;
        for (unsigned i = 0; i < thread_count; ++i) {
            threads[i].result = meeting == count ? hits : meeting == all_of_block ? every : hits != 0;
            make_ready(threads[i]);
        }
        waiting_for_block = 0;
        order_block();
    }
    suspend(self);
    return static_cast<int>(self.result);
}

unsigned long long cuda_on_cpu_meet_warp(int meeting, unsigned mask, unsigned long long value, int source, int line) {
    const unsigned first = thread_number / WARP * WARP, lane = thread_number % WARP;
    if (!(mask >> lane & 1))
        fail(Violation::barrier, line, "%s: lane %u is not in its own mask 0x%08x", NAMES[meeting], lane, mask);
    Thread& self = threads[thread_number];
    self.state = State::waiting;
    self.meeting = meeting;
    self.line = line;
    self.mask = mask;
    self.source = source;
    self.value = value;
    complete_warp(first, self);
    suspend(self);
    return self.result;
}
}
