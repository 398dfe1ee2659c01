"""The parts, and how large each is. Each takes a Workplace and Parameters, returns Tables."""
from bench_activation import part_a
from bench_drain import part_e
from bench_live import part_c, part_d
from bench_places import GIB, MIB
from bench_requests import part_requests
from bench_systems import ALL
from bench_writes import part_b, part_f


class Parameters:
    """Sizes of a full run, and of a quick one."""

    def __init__(self, quick, systems=ALL, uring=False, cases=""):
        self.systems = systems  # of part c
        self.uring = uring      # may be switched on
        self.cases = cases      # of parts c and d, those with this in their name
        self.reps = 3
        self.shapes = ("64m", "sparse", "many") if quick else ("64m", "big", "sparse", "100", "many")
        self.big = 256 * MIB if quick else GIB
        self.many = 2000 if quick else 20000
        self.data = 128 * MIB if quick else 256 * MIB
        self.ballast = 512 * MIB if quick else 2 * GIB
        self.files = 1000 if quick else 2000
        self.tree = 500 if quick else 2000
        self.seconds = 0.2 if quick else 2.0
        self.before_s = 0.2 if quick else 0.5
        self.after_s = 0.2 if quick else 0.5
        self.rewrite_s = 0.5 if quick else 3.0
        self.peer_reps = 1 if quick else 3


PARTS = {"a": part_a, "b": part_b, "c": part_c, "d": part_d, "e": part_e, "f": part_f,
         "requests": part_requests}
