// emulation.h - what execution.cpp and memory_check.cpp know of each other, and emulator.py of both.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr unsigned MAX_THREADS = 1024, WARP = 32;

// Every launch works on copies of its arrays, each in a slot of its own of one large reservation: whatever leaves an
// array then meets no other. The gaps cost no memory, since untouched pages have none.
constexpr unsigned SLOTS = 64;
constexpr size_t SLOT_SIZE = size_t(1) << 30, GUARD = size_t(1) << 28;
constexpr unsigned DYNAMIC_SHARED = SLOTS - 1;  // its slot

// What memory_check.cpp remembers of four bytes takes 64; beside the slots, of the image.
constexpr size_t GRANULE = 4, GRANULE_RECORD = 64;
constexpr size_t SHADOW_SIZE = (SLOTS + 1) * (SLOT_SIZE / GRANULE) * GRANULE_RECORD;

struct Index {
    unsigned x, y, z;
};

struct Slot {
    size_t start, size;  // bytes from the slot's beginning
    const char* name;
};

struct Part {
    size_t start, size;  // bytes from the beginning of dynamic shared memory
};

// A launch as emulator.py fills it in; grid and block are checked already.
struct Launch {
    Index grid, block;
    int order;  // forward, reverse, random
    int flush;  // denormal numbers to zero
    uint64_t seed;
    void (*thread)(void**);
    void** arguments;
    char* image[4];  // begin, end, and the static shared memory in it
    Slot slots[SLOTS];
    const Part* parts;  // of dynamic shared memory, where a kernel cuts it up; what lies between belongs to no part
    size_t part_count;
};

enum class Violation : int { bounds = 1, race = 2, barrier = 3, undefined = 4 };

struct Report {
    Violation violation;
    Index block, thread;
    int line;                // of the text, or 0: the line is that of code[0]
    size_t code[2];          // addresses within the image; code[1] is the other access of a race
    char text[400];
};

extern Launch launch;
extern unsigned block_number, thread_number;  // linear, of the running thread
extern char *arena, *stacks_begin, *stacks_end, *shadow;

// Records what the running thread, or none, did, and ends the launch without returning.
[[noreturn]] void fail(Violation violation, int line, const char* format, ...) __attribute__((format(printf, 3, 4)));
extern Report report;

// memory_check.cpp is told what orders accesses.
void check_launch();
void check_block();
void forget_accesses(unsigned slot);  // gives its memory back
void order_block();
void order_warp(unsigned first_thread, unsigned lanes);
