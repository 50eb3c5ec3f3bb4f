"""The scripts from end to end on digits, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autofusion_jax.evaluation.results import read_results
from configs.schema import METHODS, REFERENCES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
QUICK = [
    "--config.train.epochs=3",
    "--config.merge.epochs=2",
    "--config.merge.repeats=2",
    "--config.evaluate.curve_points=5",
]


def command(script, *args):
    return [sys.executable, str(ROOT / "experiments" / script), *map(str, args)]


def run(script, *args, cwd, status=0):
    done = subprocess.run(command(script, *args), cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def merge(cwd, *args, **options):
    return run("merge.py", "--config=digits_mlp", *QUICK, *args, cwd=cwd, **options)


def numbers(folder):
    return [
        (r.method, r.variant, r.pair, r.repeat, r.seed, r.metrics, r.num_learned)
        for r in read_results(folder / "results.jsonl")
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("finished")
    return cwd, merge(cwd, "--config.out_dir=out", "--config.pairs=2").stdout


def test_it_writes_what_it_says(finished):
    cwd, printed = finished
    out = cwd / "out"
    for name in ("results.jsonl", "table.md", "interpolation.png", "permutations.png", "config.json"):
        assert (out / name).stat().st_size > 0 and name in printed
    assert "results in out" in printed
    records = read_results(out / "results.jsonl")
    methods = list(dict.fromkeys(r.method for r in records))
    assert tuple(methods) == (*REFERENCES[:2], *METHODS, *REFERENCES[2:])
    assert {r.pair for r in records} == {0, 1} and {r.seed for r in records} == {0, 1}
    assert {(r.variant, r.repeat) for r in records if r.method == "autofusion"} == {
        (v, k) for v in ("soft", "hard") for k in (0, 1)
    }
    assert all((out / r.path / "manifest.json").is_file() for r in records if r.path)
    assert "AutoFusion, soft" in (out / "table.md").read_text()
    assert json.loads((out / "config.json").read_text())["train"]["epochs"] == 3


def test_the_same_command_twice_gives_the_same_numbers(finished, tmp_path):
    cwd, _ = finished
    merge(tmp_path, "--config.out_dir=out", "--config.pairs=2")
    assert numbers(tmp_path / "out") == numbers(cwd / "out")


def test_a_finished_run_is_not_run_again(finished):
    cwd, _ = finished
    before = (cwd / "out" / "results.jsonl").read_text()
    lines = merge(cwd, "--config.out_dir=out", "--config.pairs=2").stdout.splitlines()
    assert all("found in" in line for line in lines if "row(s) to go" in line)
    assert (cwd / "out" / "results.jsonl").read_text() == before


def test_another_config_does_not_overwrite(finished):
    cwd, _ = finished
    done = merge(cwd, "--config.out_dir=out", status=2)
    assert done.stderr.startswith("error: merge: out_dir must be new") and "Traceback" not in done.stderr


def test_evaluate_repeats_the_number(finished):
    cwd, _ = finished
    record = next(r for r in read_results(cwd / "out" / "results.jsonl") if r.method == "autofusion")
    run("evaluate.py", f"--checkpoint=out/{record.path}", "--out=e.json", cwd=cwd)
    assert json.loads((cwd / "e.json").read_text())["metrics"] == pytest.approx(record.metrics)
    run(
        "evaluate.py",
        f"--checkpoint=out/{record.path}",
        "--task_a=0,1",
        "--task_b=2",
        "--out=f.json",
        cwd=cwd,
    )
    assert json.loads((cwd / "f.json").read_text())["tasks"] == [[0, 1], [2]]


def test_corrupt_checkpoints_are_refused(finished):
    cwd, _ = finished
    record = next(r for r in read_results(cwd / "out" / "results.jsonl") if r.method == "weight_matching")
    (cwd / "out" / record.path / "meta.json").write_text("{}")
    done = run("evaluate.py", f"--checkpoint=out/{record.path}", cwd=cwd, status=2)
    assert "corrupt" in done.stderr and "Traceback" not in done.stderr


def heed_interrupts():
    """A shell's background jobs ignore Ctrl-C, and so would all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


BRIEF = [
    *QUICK,
    "--config.pairs=2",
    "--config.train.segment=10",
    "--config.merge.methods=interpolation,autofusion",
    "--config.merge.references=model_a,model_b,teacher_em",
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("undisturbed")
    run("merge.py", "--config=digits_mlp", *BRIEF, "--config.out_dir=out", cwd=cwd)
    return numbers(cwd / "out")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_started_again(tmp_path, undisturbed, how):
    """Killed twice at different points, then left alone: the numbers are those of an undisturbed run."""
    args = command("merge.py", "--config=digits_mlp", *BRIEF)
    for marker in ("runs/checkpoints/*/seed_0/*/step_*", "runs/rows/interpolation_*"):
        process = subprocess.Popen(
            args, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=heed_interrupts
        )
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(marker)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert list(tmp_path.glob(marker)) and process.poll() is None
        process.send_signal(how)
        process.communicate(timeout=60)
        assert process.returncode == (-how if how == signal.SIGKILL else 130)
    last = subprocess.run(args, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=300)
    assert "going on in" in last.stdout
    (folder,) = tmp_path.glob("runs/digits_mlp-*")
    assert numbers(folder) == undisturbed


def test_three_commands_at_once(tmp_path, undisturbed):
    """Two on one folder, one on none: each network and row is made once, and all say the same."""
    folders = [["--config.out_dir=out"], ["--config.out_dir=out"], []]
    commands = [command("merge.py", "--config=digits_mlp", *BRIEF, *folder) for folder in folders]
    running = [
        subprocess.Popen(one, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for one in commands
    ]
    printed = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], printed
    assert "waits for process" in "".join(printed)
    assert "".join(printed).count("trained model_a of seed 0") == 1
    (other,) = tmp_path.glob("runs/digits_mlp-*")
    assert numbers(tmp_path / "out") == numbers(other) == undisturbed
    assert not list(tmp_path.rglob(".*"))


def test_train_shows_both_endpoints(tmp_path):
    printed = run("train.py", "--config=digits_mlp", "--config.train.epochs=2", cwd=tmp_path).stdout
    assert "model_a, seed 0" in printed and "model_b, seed 0" in printed and "%" in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "error: --config=NAME must come first"),
        (["--config=digit_mlp"], "Did you mean 'digits_mlp'"),
        (["--config=digits_mlp", "--config.merge.methods=zip"], "unknown method 'zip'"),
        (["--config=digits_mlp", "--config.merge.repeats=0"], "repeats must be an integer >= 1; got 0"),
        (["--config=digits_mlp", "--config.seed=x"], "invalid literal for int"),
        (["--config=digits_mlp", "--config.out_dir=/proc/none"], "/proc/none"),
        (["--config=digits_mlp", "stray"], "unknown argument 'stray'"),
    ],
)
def test_errors_are_one_line(tmp_path, args, message):
    done = run("merge.py", *args, cwd=tmp_path, status=2)
    assert message in done.stderr and done.stderr.strip().count("\n") == 0 and "Traceback" not in done.stderr


def test_bench_takes_the_flags_of_reproduce(tmp_path):
    done = run("bench_fusion.py", "--config=tiny_vit_4tasks", "--pairs=0", cwd=tmp_path, status=2)
    assert "--pairs must be >= 1; got 0" in done.stderr and "Traceback" not in done.stderr


def test_help_lists_the_configs(tmp_path):
    done = subprocess.run(
        command("merge.py", "--help"), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "mnist_vgg_paper" in done.stdout and "--config.merge.methods" in done.stdout


def test_ci_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
