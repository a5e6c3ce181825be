// memory_check.cpp - judges every access of a kernel to memory: is it within its array, and is it ordered?
//
// g++ -fsanitize=thread puts a call before each access; these calls are answered here, not by ThreadSanitizer, which
// knows neither the barriers of a block nor the bounds of an array. -fsanitize=undefined calls the functions at the
// end.
//
// Two accesses of different threads to one place, not both reads and not both atomic, race unless a barrier of their
// block or a __syncwarp of their warp lies between. Nothing orders the blocks of a launch.
#include <string.h>
#include <sys/mman.h>

#include "emulation.h"

namespace {

// A thread's time advances at every meeting that orders; an access is known by its thread and that thread's time.
unsigned now[MAX_THREADS];
unsigned at_barrier[MAX_THREADS];       // the time of each thread at the last barrier of the block
unsigned seen[MAX_THREADS][WARP];       // the time of each lane of its warp up to which a thread comes after it

struct Access {
    unsigned thread;  // block and thread in one number
    unsigned time;    // 0: there was none
    unsigned where;   // 28 bits of its code's address in the image, and the bytes of the granule that it touched
};

// What is remembered of four bytes; of bytes that several threads write one by one, the last write only. Two reads, of
// different warps where there are such, are enough: between two barriers of the block a thread comes after others of
// its own warp at most, so that one of the two is not ordered before it, or both are its warp's.
struct Granule {
    unsigned stamp;  // of the launch, or, in shared memory, of the block
    Access write, reads[2], atomics[2];
};
static_assert(sizeof(Granule) == GRANULE_RECORD, "one line of the cache");

Granule* granules_of(unsigned slot) {
    return reinterpret_cast<Granule*>(shadow) + slot * (SLOT_SIZE / GRANULE);
}

unsigned last_stamp, launch_stamp, block_stamp;

bool ordered(const Access& earlier) {
    if (earlier.thread / MAX_THREADS != block_number) return false;
    const unsigned other = earlier.thread % MAX_THREADS;
    if (other == thread_number || earlier.time <= at_barrier[other]) return true;
    return other / WARP == thread_number / WARP && earlier.time <= seen[thread_number][other % WARP];
}

enum class Kind { read, write, atomic };
const char* const VERBS[] = {"reads", "writes", "atomically updates"};

// What the kernel may touch: an argument, shared memory, or its own constants.
struct Place {
    unsigned slot;
    size_t offset;  // in the slot
    size_t start, size;
    const char* name;
    unsigned stamp;
};

[[noreturn]] void fail_bounds(Kind kind, size_t bytes, const char* name, long long offset, size_t size) {
    fail(Violation::bounds, 0, "%s %zu byte%s at offset %lld of %s, which has %zu bytes", VERBS[int(kind)], bytes,
         bytes == 1 ? "" : "s", offset, name, size);
}

[[noreturn]] void fail_race(Kind kind, const Place& place, size_t offset, Kind other_kind, const Access& other) {
    static const char* const HAVE[] = {"read", "wrote", "atomically updated"};
    report.code[1] = other.where >> 4;
    const unsigned thread = other.thread % MAX_THREADS, block = other.thread / MAX_THREADS;
    const Index &size = launch.block, &grid = launch.grid;
    fail(Violation::race, 0,
         "%s offset %zu of %s, which thread (%u, %u, %u) of block (%u, %u, %u) %s {other} with nothing in between to "
         "order the two",
         VERBS[int(kind)], offset - place.start, place.name, thread % size.x, thread / size.x % size.y,
         thread / size.x / size.y, block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y,
         HAVE[int(other_kind)]);
}

void remember(Access (&slots)[2], const Access& access) {
    for (Access& slot : slots) {
        if (slot.time && slot.thread == access.thread && slot.time == access.time) {
            slot.where |= access.where & 15;
            return;
        }
        if (!slot.time || ordered(slot)) {
            slot = access;
            return;
        }
    }
    const auto warp = [](const Access& a) { return a.thread / WARP; };
    if (warp(slots[0]) == warp(slots[1]) || warp(slots[1]) == warp(access)) slots[1] = access;
    else if (warp(slots[0]) == warp(access)) slots[0] = access;
}

void check_granule(Granule& granule, const Place& place, size_t offset, unsigned bytes, Kind kind, size_t code) {
    if (granule.stamp != place.stamp) {
        memset(&granule, 0, sizeof granule);
        granule.stamp = place.stamp;
    }
    const auto against = [&](const Access& other, Kind other_kind) {
        if (other.time && (other.where & bytes) && !ordered(other)) fail_race(kind, place, offset, other_kind, other);
    };
    against(granule.write, Kind::write);
    if (kind != Kind::atomic)
        for (const Access& other : granule.atomics) against(other, Kind::atomic);
    if (kind != Kind::read)
        for (const Access& other : granule.reads) against(other, Kind::read);

    const Access access = {block_number * MAX_THREADS + thread_number, now[thread_number],
                           static_cast<unsigned>(code << 4) | bytes};
    if (kind == Kind::read) remember(granule.reads, access);
    if (kind == Kind::atomic) remember(granule.atomics, access);
    if (kind == Kind::write) {
        granule.write = access;  // what follows it follows all that it was compared with
        memset(granule.reads, 0, sizeof granule.reads);
        memset(granule.atomics, 0, sizeof granule.atomics);
    }
}

bool is_in_a_part(size_t offset, size_t bytes) {
    for (size_t i = 0; i < launch.part_count; ++i) {
        const Part& part = launch.parts[i];
        if (offset >= part.start && offset + bytes <= part.start + part.size) return true;
    }
    return !launch.part_count;
}

void check(void* address, size_t bytes, Kind kind, void* return_address) {
    char* const at = static_cast<char*>(address);
    if (at >= stacks_begin && at < stacks_end) return;  // a thread's own
    const size_t code = static_cast<char*>(return_address) - launch.image[0];
    report.code[0] = code;
    Place place{};
    const size_t in_arena = static_cast<size_t>(at - arena);
    if (in_arena < SLOTS * SLOT_SIZE) {
        place.slot = static_cast<unsigned>(in_arena / SLOT_SIZE);
        place.offset = in_arena % SLOT_SIZE;
        const Slot& slot = launch.slots[place.slot];
        place.start = slot.start, place.size = slot.size, place.name = slot.name;
        place.stamp = place.slot == DYNAMIC_SHARED ? block_stamp : launch_stamp;
        const size_t relative = place.offset - place.start;
        if (relative >= place.size || relative + bytes > place.size)
            fail_bounds(kind, bytes, place.name ? place.name : "no array", static_cast<long long>(relative),
                        place.size);
        if (place.slot == DYNAMIC_SHARED && !is_in_a_part(relative, bytes))
            fail(Violation::bounds, 0, "%s %zu bytes at offset %zu of %s, in none of its parts", VERBS[int(kind)], bytes,
                 relative, place.name);
    } else if (at >= launch.image[0] && at + bytes <= launch.image[1]) {
        place.slot = SLOTS;
        place.offset = static_cast<size_t>(at - launch.image[0]);
        const bool shared = at >= launch.image[2] && at < launch.image[3];
        place.start = shared ? static_cast<size_t>(launch.image[2] - launch.image[0]) : 0;
        place.name = shared ? "static shared memory" : "the module's own data";
        place.stamp = shared ? block_stamp : launch_stamp;
    } else {
        fail_bounds(kind, bytes, "no array", static_cast<long long>(reinterpret_cast<uintptr_t>(address)), 0);
    }
    for (size_t offset = place.offset; offset < place.offset + bytes;) {
        const size_t first = offset % GRANULE, left = place.offset + bytes - offset;
        const size_t span = left < GRANULE - first ? left : GRANULE - first;
        Granule& granule = granules_of(place.slot)[offset / GRANULE];
        check_granule(granule, place, offset, ((1u << span) - 1) << first, kind, code);
        offset += span;
    }
}

}  // namespace

void check_launch() { launch_stamp = ++last_stamp; }

void check_block() {
    block_stamp = ++last_stamp;
    memset(at_barrier, 0, sizeof at_barrier);
    memset(seen, 0, sizeof seen);
    for (unsigned& time : now) time = 1;
}

void forget_accesses(unsigned slot) {
    madvise(granules_of(slot), SLOT_SIZE / GRANULE * sizeof(Granule), MADV_DONTNEED);
}

void order_block() {
    for (unsigned i = 0; i < MAX_THREADS; ++i) at_barrier[i] = now[i]++;
}

void order_warp(unsigned first_thread, unsigned lanes) {
    unsigned joined[WARP] = {};
    for (unsigned lane = 0; lane < WARP; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        for (unsigned i = 0; i < WARP; ++i)
            if (seen[first_thread + lane][i] > joined[i]) joined[i] = seen[first_thread + lane][i];
    }
    for (unsigned lane = 0; lane < WARP; ++lane)
        if (lanes >> lane & 1) joined[lane] = now[first_thread + lane]++;
    for (unsigned lane = 0; lane < WARP; ++lane)
        if (lanes >> lane & 1) memcpy(seen[first_thread + lane], joined, sizeof joined);
}

extern "C" {

void cuda_on_cpu_atomic(void* address, size_t bytes, void* code) { check(address, bytes, Kind::atomic, code); }

// What g++ -fsanitize=thread calls

void __tsan_init() {}
#define ACCESS(name, bytes, kind) \
    void __tsan_##name(void* address) { check(address, bytes, Kind::kind, __builtin_return_address(0)); }
ACCESS(read1, 1, read)
ACCESS(read2, 2, read)
ACCESS(read4, 4, read)
ACCESS(read8, 8, read)
ACCESS(read16, 16, read)
ACCESS(write1, 1, write)
ACCESS(write2, 2, write)
ACCESS(write4, 4, write)
ACCESS(write8, 8, write)
ACCESS(write16, 16, write)
#undef ACCESS
void __tsan_read_range(void* address, size_t bytes) {
    check(address, bytes, Kind::read, __builtin_return_address(0));
}
void __tsan_write_range(void* address, size_t bytes) {
    check(address, bytes, Kind::write, __builtin_return_address(0));
}

// What g++ -fsanitize=undefined calls: each hands over data that begin with the place in the text.

struct SourceLocation {
    const char* file;
    unsigned line, column;
};
struct TypeMismatch {
    SourceLocation location;
    void* type;
    unsigned char log_alignment;
};

#define UNDEFINED(name, what) \
    void __ubsan_handle_##name(SourceLocation* at) { fail(Violation::undefined, int(at->line), what); }
UNDEFINED(add_overflow, "signed integer overflow in an addition")
UNDEFINED(sub_overflow, "signed integer overflow in a subtraction")
UNDEFINED(mul_overflow, "signed integer overflow in a multiplication")
UNDEFINED(negate_overflow, "signed integer overflow in a negation")
UNDEFINED(divrem_overflow, "an integer division by zero, or one that overflows")
UNDEFINED(shift_out_of_bounds, "a shift by a negative number or by all the bits there are")
UNDEFINED(out_of_bounds, "an index outside the bounds of an array")
UNDEFINED(load_invalid_value, "a bool that is neither true nor false")
UNDEFINED(builtin_unreachable, "a place that cannot be reached")
UNDEFINED(missing_return, "the end of a function that must return a value")
UNDEFINED(vla_bound_not_positive, "an array of no size")
UNDEFINED(pointer_overflow, "a pointer that overflows")
UNDEFINED(invalid_builtin, "zero given to an intrinsic that counts bits")
#undef UNDEFINED
void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, uintptr_t address) {
    const size_t alignment = size_t(1) << data->log_alignment;
    if (address % alignment)
        fail(Violation::undefined, int(data->location.line),
             "an address that is no multiple of %zu, as its type's must be", alignment);
    fail(Violation::undefined, int(data->location.line), "a null pointer, or an object beyond the end of its array");
}
}
