"""The second use of a large block of memory, in a process and a thread of its own."""

import platform
import subprocess
import sys

import pytest

BLOCK = 128 << 20  # bytes; more than an arena of a thread can hold

PROGRAM = f"""
import resource, sys, threading
from knn_ner_jax.io import tune_memory

def faults_of_a_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"x") * {BLOCK}
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    assert tune_memory()
thread = threading.Thread(target=lambda: print(faults_of_a_block(), faults_of_a_block()))
thread.start()
thread.join()
"""


def page_faults(mode: str) -> tuple[int, int]:
    process = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    first, second = map(int, process.stdout.split())
    return first, second


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again_without_page_faults():
    first, second = page_faults("keep")
    assert first > 1000
    assert second < 100
    assert min(page_faults("give back")) > 1000
