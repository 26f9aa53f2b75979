"""scripts/bench.py: turns, ratios, table, processes; with --quick (slow) the peers themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tlflax.errors import ConfigError

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.append(str(SCRIPTS))

from bench import drawn, jobs, plan, table  # noqa: E402
from bench.quick import Quick, difference  # noqa: E402
from bench.rounds import compare, run_cell  # noqa: E402
from bench.workers import PeerFailed, Remote, chosen, environment, interpreters  # noqa: E402


class Fake:
    """A worker that takes the seconds it is told; notes who was asked what."""

    def __init__(self, name, diary, seconds, breaks_at=None):
        self.name, self.diary, self.seconds, self.breaks_at = name, diary, seconds, breaks_at

    def ask(self, do, **arguments):
        self.diary.append((self.name, do))
        if do == self.breaks_at:
            raise PeerFailed("out of memory")
        answers = {
            "prepare": {"seconds": 9.0},
            "measure": {"seconds": self.seconds, "peak_mb": 100.0},
            "matmul": {"gflops": 50.0 / self.seconds},
        }
        return answers.get(do, {})


def cell(rounds=3, seconds=1e9, **made):
    diary = []
    workers = {n: Fake(n, diary, *options) for n, options in made.items()}
    found = run_cell(workers, {n: {"kind": "forward"} for n in workers}, rounds, seconds)
    return found, [name for name, do in diary if do == "matmul"]


def test_peers_take_turns():
    found, turns = cell(a=(1.0,), b=(2.0,))
    assert turns == ["a", "b"] * 3
    assert found["peers"]["b"]["seconds"] == [2.0] * 3
    assert found["matmul"] == {"a": 50.0, "b": 25.0}


def test_no_time_left_means_two_rounds():
    assert cell(rounds=5, seconds=0.0, a=(1.0,), b=(2.0,))[1] == ["a", "b"] * 2


@pytest.mark.parametrize("when", ["prepare", "measure", "matmul", "free"])
def test_a_peer_that_fails_stops_nobody_else(when):
    found, turns = cell(a=(1.0, when), b=(2.0,))
    assert found["peers"]["a"] == {"failed": "out of memory"}
    assert turns.count("b") == 3
    assert "ratio" not in compare(found["peers"], "a")


def test_ratios_are_of_medians_and_to_the_best_other_peer():
    peers = {
        "tlflax": {"seconds": [2.0, 1.0, 1.0]},
        "torch": {"seconds": [3.0, 3.0, 9.0]},
        "keras_tf": {"seconds": [4.0, 4.0, 4.0]},
        "keras_jax": {"failed": "why"},
    }
    found = compare(peers)
    assert found["best_peer"] == "torch"
    assert found["ratio"] == 3.0
    assert found["range"] == [1.5, 4.0]  # 3 / 2 in the first round, 4 / 1 in the last
    assert peers["torch"]["speed"] == 1.0 and peers["keras_tf"]["speed"] == 0.75


def test_jobs_that_were_stopped_are_not_the_best():
    peers = {"tlflax": {"seconds": [1.0]}, "torch": {"seconds": [], "stopped": 9.0}}
    assert compare(peers) == {}


def row(workload="a", network="vgg16", **fields):
    peers = {
        "tlflax": {"seconds": [0.5], "peak_mb": 400.0},
        "torch": {"seconds": [1.0], "peak_mb": 300.0},
        "keras_tf": {"failed": "x"},
        "keras_jax": {"seconds": [], "stopped": 70.0},
    }
    found = {"workload": workload, "network": network, "unit": "images/s", "images": 16}
    found |= {"what": "48 px", "target": 0.9, "peers": peers, "peak_gflops": 100.0, "flops": 5e9}
    return found | compare(peers) | fields


def results(rows):
    facts = {"versions": {"jax": "0.10"}, "python": "3.11", "threads": 2}
    return {
        "machine": table.machine(), "date": "2026-11-23", "peers": {"tlflax": facts}, "rows": rows,
        "notes": ["a note"],
    }  # fmt: skip


def test_table_has_rates_fractions_of_the_peak_and_ratios(tmp_path):
    table.write(tmp_path, results([row()]))
    text = (tmp_path / "bench.md").read_text()
    (line,) = [x for x in text.splitlines() if x.startswith("| vgg16")]
    cells = [c.strip() for c in line.strip("|").split("|")]
    assert cells[0] == "vgg16, 48 px"
    # 16 images in 0.5 s; 5 GFLOP in 0.5 s are a tenth of 100 GFLOP/s.
    assert cells[1:5] == ["32 (10%) images/s", "failed", "> 70 s", "16 (5%) images/s"]
    assert cells[5:] == ["**2.00**", "0.9", "400 / - / - / 300"]
    assert "a note" in text and "tlflax: jax 0.10; Python 3.11, 2 threads" in text


def test_a_missed_target_is_not_bold():
    assert "| 2.00 |" in table.markdown(results([row(target=3.0)]))


def test_merged_rows_replace_and_stand_in_order(tmp_path):
    table.write(tmp_path, results([row("d", unit="s"), row("a", images=1)]))
    old = table.read(tmp_path)["rows"]
    merged = table.merge(old, [row("b"), row("a", images=2)])
    assert [r["workload"] for r in merged] == ["a", "b", "d"]
    assert merged[0]["images"] == 2
    assert table.read(tmp_path / "nowhere") == {}


def test_unknown_names_are_suggested():
    assert chosen("torch, tlflax", plan.PEERS, "--peers") == ["tlflax", "torch"]
    with pytest.raises(ConfigError, match=r"--peers: unknown 'keras_tff'; did you mean keras_tf"):
        chosen("keras_tff", plan.PEERS, "--peers")


def test_a_missing_environment_is_one_line_that_says_what_to_run(tmp_path):
    (tmp_path / "torch" / "bin").mkdir(parents=True)
    (tmp_path / "torch" / "bin" / "python").touch()
    with pytest.raises(ConfigError, match=r"bench_setup\.sh .*leave it out: --peers torch"):
        interpreters(["tlflax", "torch"], tmp_path)
    found = subprocess.run(
        [sys.executable, SCRIPTS / "bench.py", "--only", "a", f"--envs={tmp_path}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.startswith("error: no environment for tlflax, keras_tf, keras_jax in")
    assert found.stderr.count("\n") == 1


# Stands in for a peer's module; "fake" is then a peer like the others.
PEER = """
import os, sys, types
import numpy as np
class Peer:
    def describe(self): print("chatter"); return {"platform": "cpu"}
    def product(self, a, b): return lambda: a @ b
    def forward(self, network, pixels): return lambda: pixels.mean((1, 2))
    def step(self, network, pixels): raise ValueError("no gradient")
    def clear(self): pass
    def die(self): os._exit(3)
module = types.ModuleType("bench.peer_fake")
module.Peer = Peer
sys.modules["bench.peer_fake"] = module
from bench.worker import serve
serve("fake")
"""


def test_a_worker_process_answers_measures_and_survives_errors(tmp_path):
    variables = environment("fake", tmp_path) | {"OMP_NUM_THREADS": "1"}
    remote = Remote("fake", [sys.executable, "-c", PEER], variables, tmp_path / "log")
    try:
        assert remote.ask("describe")["platform"] == "cpu"
        with pytest.raises(PeerFailed, match="ValueError: no gradient"):
            remote.ask("prepare", kind="step", network="vgg16", batch=2, size=32)
        remote.ask("prepare", kind="forward", network="vgg16", batch=2, size=32)
        assert remote.ask("measure", repeats=2)["peak_mb"] > 10
        assert remote.ask("matmul", side=32, repeats=1)["gflops"] > 0
        with np.load(remote.ask("values", path=str(tmp_path / "v.npz"))["path"]) as stored:
            (values,) = (stored[n] for n in stored)
        np.testing.assert_array_equal(values, drawn.images(2, 32).mean((1, 2)))
        with pytest.raises(PeerFailed, match="its process ended"):
            remote.ask("die")
    finally:
        remote.close()
    assert b"chatter" in (tmp_path / "log").read_bytes()


def test_job_folders_hold_the_same_classes_in_every_split(tmp_path):
    for split in ("train", "test"):
        for name in ("cats", "dogs"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(4):
                (tmp_path / "data" / split / name / f"{name}{i}.jpg").write_text(f"{split}{i}")
    made = jobs.make_folder(tmp_path / "data", tmp_path / "made", (4, 2, 6))
    names = sorted(p.relative_to(made).as_posix() for p in made.rglob("*cats*.jpg"))
    assert names == [
        "test/cats/cats0.jpg", "test/cats/cats1.jpg", "test/cats/cats2.jpg",
        "train/cats/cats0.jpg", "train/cats/cats1.jpg", "val/cats/cats2.jpg",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"too few \.jpg files: 5 are needed"):
        jobs.make_folder(tmp_path / "data", tmp_path / "more", (8, 2, 2))


def test_a_job_is_timed_from_start_to_exit_and_stopped_at_its_limit(tmp_path):
    ends = [sys.executable, "-c", "import time; time.sleep(0.2); print('{}')"]
    found = jobs.run_process(ends, os.environ, tmp_path / "log")
    assert found["seconds"] >= 0.2 and "stopped" not in found
    assert jobs.facts_of("torch", tmp_path / "log", tmp_path) == {}
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert jobs.run_process(waits, os.environ, tmp_path / "log", limit=0.1)["stopped"]
    breaks = [sys.executable, "-c", "raise SystemExit('no disk')"]
    with pytest.raises(PeerFailed, match="exit code 1: no disk"):
        jobs.run_process(breaks, os.environ, tmp_path / "log")


class FakeJobs(jobs.Jobs):
    """Jobs of given lengths; `limits` has what each was allowed."""

    def __init__(self, seconds, tmp_path):
        super().__init__({n: Path() for n in seconds}, "vgg16", tmp_path, tmp_path, 1, 32)
        self.seconds, self.limits, self.caches = seconds, [], []

    def run(self, peer, mode, cache, limit=None):
        self.limits.append((peer, mode, limit))
        self.caches.append(cache)
        taken = self.seconds[peer]
        if limit is not None and taken > limit:
            return {"seconds": limit, "peak_mb": 1.0, "stopped": True}
        return {"seconds": taken, "peak_mb": 1.0, "did": {}}


def test_whole_jobs_stop_hopeless_peers_and_run_a_second_head_in_the_same_cache(tmp_path):
    runner = FakeJobs({"tlflax": 5.0, "keras_tf": 20.0, "keras_jax": 90.0, "torch": 10.0}, tmp_path)
    first, second = runner.rounds("frozen", 2, 1e9, again=True)
    assert runner.limits[:5] == [
        ("tlflax", "frozen", None), ("tlflax", "hidden", None), ("keras_tf", "frozen", None),
        ("keras_jax", "frozen", 20.0 * jobs._PATIENCE), ("torch", "frozen", 20 * jobs._PATIENCE),
    ]  # fmt: skip
    # The second round: nothing for the peer that was stopped, an empty cache for tlflax.
    assert [peer for peer, _, _ in runner.limits[5:]] == ["tlflax", "tlflax", "keras_tf", "torch"]
    assert runner.caches[0] == runner.caches[1] != runner.caches[5]
    assert first["keras_jax"]["stopped"] and len(first["torch"]["seconds"]) == 2
    assert second["torch"] is first["torch"] and second["tlflax"]["seconds"] == [5.0, 5.0]


def judged(tmp_path, outputs, **options):
    said = []
    quick = Quick({}, {}, tmp_path, said.append)
    quick._judge("b", "vgg16", outputs, 1e-3, **options)
    return quick.results[0]["agrees"], said[0]


def test_quick_says_who_differs(tmp_path):
    one = np.array([0.9, 0.7, 0.4])
    assert judged(tmp_path, {"tlflax": one, "torch": one * (1 + 1e-4)}, moves=True)[0] is True
    agrees, said = judged(tmp_path, {"tlflax": one, "torch": one * 1.01}, moves=True)
    assert agrees is False and "DIFFER torch 1.0e-02" in said
    assert judged(tmp_path, {"tlflax": one, "torch": one[:2]})[0] is False
    assert judged(tmp_path, {"tlflax": one, "torch": np.full(3, np.nan)})[0] is False
    assert judged(tmp_path, {"tlflax": one})[0] is None
    still = np.full(3, 0.7)
    agrees, said = judged(tmp_path, {"tlflax": still, "torch": still}, moves=True)
    assert agrees is False and "hardly change" in said
    assert difference(one, one) == 0.0


@pytest.mark.slow
def test_tlflax_and_keras_on_jax_compute_the_same(tmp_path):
    words = [sys.executable, SCRIPTS / "bench.py", "--quick", "--here", "--peers=tlflax,keras_jax"]
    found = subprocess.run(
        [*words, "--networks=vgg16,mobilenet_v2"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    # f, and for each network a, b, d, e; c for VGG16.
    assert "10 of 10 as they should be" in found.stdout


def test_the_plan_is_json_and_complete():
    shares = json.loads(json.dumps(plan.SHARES))
    assert list(shares) == list(plan.WORKLOADS) and abs(sum(shares.values()) - 1) < 1e-9
    for network in plan.NETWORKS.values():
        assert network.peers()[0] == "tlflax" and len(network.peers()) > 1
    assert all(plan.NETWORKS[n].last[0] for n in plan.JOB_NETWORKS)
