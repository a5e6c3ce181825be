"""Many networks at once: speed, searches and memory. Results are compared before any is timed.

    python -m benchmarks.many                              prints all tables; some minutes
    python -m benchmarks.many --only search                one of them
    python -m benchmarks.many --repeats 1 --megabytes 200  quickly

Everything in a table is timed in turn (A B C A B C), on the wall, on all cores; the medians count. What competes for
the cores falsifies them, so the load before and after stands below each table.
"""
