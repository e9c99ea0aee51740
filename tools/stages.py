# SPDX-License-Identifier: Apache-2.0
"""Run make targets in lanes, side by side, and show what each said in order, with timings.

Every stage is `make TARGET`; what it says goes to a log of its own, which is shown when the stages before it are done.
--chain stages run one after the other and stop at the first that fails: each needs what the one before it made.
--each stages run beside the chain, all of them: in their order, two at a time as soon as the chain has ended.
--last stages run alone after the table of timings, if the chain succeeded, each if the one before it did, straight to the terminal.
--finally runs at the very end whatever happened; only a failure of it is shown.
After all that the ends of the logs that were shown and failed are repeated.
The exit status is 0 if every stage succeeded.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue

END_LINES = 40


@dataclass
class Stage:
    """One make target: its log, and once it ran its exit status and duration in seconds."""

    name: str
    log: Path
    status: int | None = None
    seconds: float = 0.0
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def verdict(self) -> str:
        """ok, FAILED or not run."""
        return "not run" if self.status is None else "ok" if self.status == 0 else "FAILED"

    @property
    def said(self) -> str:
        """What the log holds."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class Runner:
    """Starts stages and ends those under way when it is told to stop."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def say(self, text: str) -> None:
        """Print one line with the seconds since the start."""
        with self._lock:
            print(f"[{time.monotonic() - self._begun:4.0f} s] {text}", flush=True)

    def run(self, stage: Stage, to_terminal: bool = False) -> None:
        """Run one stage and wait for it."""
        begun = time.monotonic()
        with stage.log.open("wb") as log:
            child = subprocess.Popen(
                ["make", "--no-print-directory", stage.name],
                stdin=subprocess.DEVNULL,
                stdout=None if to_terminal else log,
                stderr=None if to_terminal else subprocess.STDOUT,
                start_new_session=True,
            )
            with self._lock:
                self._children.add(child)
            if self.stopped:
                self._end(child)
            stage.status = child.wait()
            with self._lock:
                self._children.discard(child)
        stage.seconds = time.monotonic() - begun

    def run_chain(self, stages: list[Stage]) -> None:
        """Run stages one after the other until one fails; mark those that are left out as done too."""
        for stage in stages:
            self._run_in_lane(stage)
            if stage.status != 0:
                break
        for stage in stages:
            stage.done.set()

    def run_each(self, waiting: Queue[Stage]) -> None:
        """Run what waits until nothing does. Several lanes may take from one queue."""
        with contextlib.suppress(Empty):
            while True:
                self._run_in_lane(waiting.get_nowait())

    def _run_in_lane(self, stage: Stage) -> None:
        if not self.stopped:
            self.say(f"{stage.name} ...")
            self.run(stage)
            self.say(f"{stage.name}: {stage.verdict}, {stage.seconds:.0f} s")
        stage.done.set()

    def stop(self, number: int, _frame: object) -> None:
        """Handler of signals: end what is under way, start nothing more."""
        self.stopped = True
        for child in list(self._children):
            self._end(child)
        sys.stderr.write(f"stages: ended by {signal.Signals(number).name}\n")

    @staticmethod
    def _end(child: subprocess.Popen[bytes]) -> None:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)


def show(runner: Runner, stage: Stage) -> None:
    """Print the log of a stage as one block."""
    text = stage.said
    runner.say(f"{'=' * 20} {stage.name}: {stage.verdict}")
    sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    sys.stdout.flush()


def repeat_end(stage: Stage) -> None:
    """Print the last lines of a failed stage's log on standard error: what is said last is what is read, and kept, of a long run."""
    print(f"{'=' * 20} {stage.name}: {stage.verdict}, the end of it", file=sys.stderr)
    print("\n".join(stage.said.splitlines()[-END_LINES:]), file=sys.stderr)


def table(stages: list[Stage], total: float) -> str:
    """Return the timings, one line a stage."""
    lines = [f"  {stage.name:<24}{stage.seconds:6.0f} s  {stage.verdict}" for stage in stages]
    return "\n".join([*lines, f"  {'so far, side by side':<24}{total:6.0f} s"])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, required=True, help="folder for the logs")
    parser.add_argument("--chain", type=str.split, default=[], help="targets of which each needs the one before")
    parser.add_argument("--each", type=str.split, default=[], help="targets that stand alone")
    parser.add_argument("--last", type=str.split, default=[], help="targets that run at the end, alone")
    parser.add_argument("--finally", dest="cleanup", help="target that always runs, after all others")
    return parser.parse_args()


def main() -> int:
    """Run the stages and return the exit status."""
    arguments = parse()
    arguments.logs.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    runner = Runner()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, runner.stop)

    def stages(names: list[str]) -> list[Stage]:
        return [Stage(name, arguments.logs / f"{name}.log") for name in names]

    chain, each = stages(arguments.chain), stages(arguments.each)
    last = stages(arguments.last)
    cleanup = stages([arguments.cleanup] if arguments.cleanup else [])
    waiting: Queue[Stage] = Queue()
    for stage in each:
        waiting.put(stage)

    def chain_first() -> None:
        runner.run_chain(chain)
        runner.run_each(waiting)

    lanes = [threading.Thread(target=chain_first), threading.Thread(target=runner.run_each, args=(waiting,))]
    for lane in lanes:
        lane.start()
    for stage in each + chain:
        stage.done.wait()
        show(runner, stage)
    for lane in lanes:
        lane.join()
    print(f"\n{table(each + chain, time.monotonic() - begun)}\n", flush=True)

    for number, stage in enumerate(last):
        if not runner.stopped and all(before.status == 0 for before in chain + last[:number]):
            runner.run(stage, to_terminal=True)
            runner.say(f"{stage.name}: {stage.verdict}, {stage.seconds:.0f} s")
    runner.stopped = False
    for stage in cleanup:
        runner.run(stage)
        if stage.status != 0:
            show(runner, stage)
    for stage in each + chain:
        if stage.status:
            repeat_end(stage)
    bad = [f"{stage.name} ({stage.verdict})" for stage in each + chain + last + cleanup if stage.status != 0]
    if bad:
        print(f"failed: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
