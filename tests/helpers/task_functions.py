"""Tasks for other processes, which import this file and nothing else to run them."""

import os
import signal
import time


def square_or_fail(number: int) -> int:
    if number == 3:
        raise ArithmeticError("three")
    return number * number


def send_sigint_to_itself(number: int) -> int:
    """Do what Ctrl+C in a terminal does to every process; 3 kills its process."""
    if number == 3:
        os.abort()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    return number


def abort_on_three(number: int) -> int:
    if number == 3:
        os.abort()
    return number * number


def own_pid(number: int) -> int:
    return os.getpid()


def hold_memory(num_bytes: int) -> int:
    """Hold memory for as long as it takes to be seen."""
    held = b"x" * num_bytes
    time.sleep(1)
    return len(held)


def square_slowly(seconds: float) -> float:
    time.sleep(seconds)
    return seconds**2
