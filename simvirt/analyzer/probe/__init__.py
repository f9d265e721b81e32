"""Running experiments: sweeps over whole instruction sets, their results kept, witnesses run again here and elsewhere.

::

    sweep         an instruction set classified by any `concurrent.futures.Executor`
    executors     the executors that a command line can name
    cache         results of sweeps, kept for as long as nothing that they depend on changes
"""
