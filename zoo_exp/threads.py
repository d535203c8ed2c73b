"""CPU threads: how they wait, and how many a process uses."""

import os


def wait_passively() -> None:
    """Let OpenMP threads sleep while they wait for each other, unless the user chose otherwise.

    Call it before torch is imported. By default they spin. On a machine with other work, the thread that is waited for
    may not run, so that a small model with two threads is many times slower than with one.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def use_threads(asked: int | None, processes: int = 1) -> int:
    """Set torch's number of threads in this process, and return it.

    Args:
        asked: the user's number (`trainer.threads`); None keeps `OMP_NUM_THREADS` if that is set, and otherwise divides
            the cores among the processes. By default torch uses all cores in every process.
        processes: processes on this machine.
    """
    import torch

    if asked is None and "OMP_NUM_THREADS" not in os.environ:
        asked = max(1, len(os.sched_getaffinity(0)) // max(1, processes))
    if asked is not None:
        torch.set_num_threads(asked)
    return torch.get_num_threads()


def renew_pool_after_fork() -> None:
    """Let torch renew its thread pool now, in one thread, if this process is a fork of one that used torch.

    Torch 2.13 renews the pool at the first parallel operation after the fork, without a guard against a second thread
    (`caffe2::pthreadpool`): while one thread renews it, an operation of another fails with "Invalid thread pool!".
    Torch's own hook for forks asks for the number of threads, which renews the pool only if the forking thread had
    never asked before. Call this before threads start that use torch.
    """
    import torch

    torch.set_num_threads(torch.get_num_threads())
