import subprocess
import sys

from abaw_seq.cpu import memory

FREED = """
import resource, sys
from abaw_seq import cpu
if sys.argv[1] == "keep":
    assert cpu.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    return [bytearray(b'x') * (16 << 20) for _ in range(12)]
for _ in range(8):
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


def test_memory_that_is_kept_is_not_fetched_again():
    if not memory.keep_freed_memory():
        assert sys.platform != "linux"
        return

    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FREED, mode], check=True, capture_output=True).stdout)

    assert faults("keep") < faults("give back") / 10


def test_other_platforms_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory.__wrapped__() is False
