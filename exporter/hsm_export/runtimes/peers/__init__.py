"""Runtimes that other people wrote, one file each, in a process of their own.

Each file is a class as anybody could write one (see `own`), and imports nothing of ours: the Python that has the
package runs it, this one or another that the user names (`tract@/path/to/python`). What a class says of itself:

    description     one line for `hsm-export doctor`
    packages        what must be importable
    install         what `pip install` takes to bring them
    static          the runtime compiles for fixed sizes: it gets a file of its own for each
    functions       the functions stay in the file
    options         what the runtime's name may state after a colon, with a line on each
"""
