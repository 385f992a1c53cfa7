"""Laws of decoding in a process of its own: the same to the bit, and nothing that happens there happens here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redline import audio
from redline.audio import AudioOptions, isolation
from redline.errors import AudioError, AudioLimitError, RedlineError
from redline.testing import FakeRecognizer
from redline.transcriber import Model
from redline.types import Transcript, Waveform
from tests.audio.audio_files import FILES, recordings, sine, wav, written

pytestmark = pytest.mark.skipif(not hasattr(socket, "send_fds"), reason="this system cannot hand over open files")

HERE = AudioOptions(isolated=False)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    isolation.end_idle()
    yield
    isolation.end_idle()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return recordings()


def outcome(source: Any, **options: Any) -> tuple[Any, ...]:
    """All that `load` gives, or raises."""
    try:
        wave = audio.load(source, options=AudioOptions(**options))
    except RedlineError as error:
        return type(error), str(error)
    return wave.samples.tobytes(), wave.source, wave.warnings


# --- equal ---


@pytest.mark.parametrize("name", FILES)
def test_a_worker_gives_what_decoding_here_gives_to_the_bit(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    data = files[name]
    middle = len(data) // 2
    path = tmp_path / "recording"
    path.write_bytes(data)
    damaged = data[:middle] + bytes(600) + data[middle + 600 :]
    for source in (path, data, damaged, data[:middle], data[:40], b"", b"text that is no sound" * 9):
        assert outcome(source, isolated=True) == outcome(source, isolated=False)
    for options in ({"channel": 1}, {"channel": 9}, {"max_duration_s": 0.5}, {"max_channels": 1}, {"track": 3}):
        assert outcome(path, isolated=True, **options) == outcome(path, isolated=False, **options)


def test_blocks_of_every_size_arrive_whole() -> None:
    for seconds in (0.001, 1.0, 4.096, 10.0, 300.0):
        samples = np.random.default_rng(0).standard_normal(round(16_000 * seconds)).astype(np.float32) * 0.1
        assert np.array_equal(audio.load(written(samples, 16_000, subtype="FLOAT")).samples, samples)


def test_the_place_in_a_callers_file_is_his_own(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"before" + wav())
    with path.open("rb") as file:
        file.read(6)
        assert audio.load(file).duration == 0.1
        file.seek(6)
        assert file.read(4) == b"RIFF"


# --- whatever happens there ---

HARM = {
    "crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "exit": "import os; os._exit(3)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "memory": "x = bytearray(1 << 31)",
    "time": "while True: pass",
    "sleep": "import time; time.sleep(600)",
    "bug": "x = 1 // 0",
    "flood": "import numpy\n        for _ in range(99): yield numpy.zeros(1 << 20, numpy.float32)",
    "nonsense": "import os, sys; os.write(int(sys.argv[1]), b'S' * 4096)\n        os._exit(0)",
}
BOOT = """
import sys
sys.path[:] = sys.argv[2:]
from redline.audio import worker
usual = worker.decode_blocks
def decode_blocks(source, options):
    if source.at(0, 4) == b"HARM":
        {harm}
    return (yield from usual(source, options))
worker.decode_blocks, worker._CPU_S = decode_blocks, 0.0
worker.main(int(sys.argv[1]))
"""
SEEN = {
    "crash": (AudioError, r"ended the worker process \(SIGSEGV\)"),
    "exit": (AudioError, r"ended the worker process \(exit status 3\)"),
    "killed": (AudioLimitError, "lack of memory"),
    "memory": (AudioLimitError, "more memory"),
    "time": (AudioLimitError, "takes far longer"),
    "sleep": (AudioLimitError, "hangs"),
    "bug": (AudioError, "ZeroDivisionError.*report this"),
    "flood": (AudioError, "ended the worker process"),
    "nonsense": (AudioError, "ended the worker process"),
}


@pytest.fixture
def harmful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """A file that does harm to the process that decodes it."""

    def make(kind: str) -> Path:
        monkeypatch.setattr(isolation, "_BOOT", BOOT.format(harm=HARM[kind]))
        path = tmp_path / f"{kind}.wav"
        path.write_bytes(b"HARM")
        return path

    return make


@pytest.mark.parametrize("kind", HARM)
def test_no_input_ends_this_process_and_the_next_is_read(
    kind: str, harmful: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = harmful(kind)
    if kind in ("memory", "time") and sys.platform != "linux":
        pytest.skip("limits that only Linux keeps")
    if kind == "sleep":
        monkeypatch.setattr(isolation, "SILENT_S", 3.0)
    error, message = SEEN[kind]
    with pytest.raises(error, match=message) as caught:
        audio.load(path, options=AudioOptions(max_duration_s=600))
    assert str(path) in str(caught.value)
    assert type(caught.value) is error
    assert audio.load(wav()).duration == 0.1


def test_a_bad_input_harms_only_itself(harmful: Callable[[str], Path], tmp_path: Path) -> None:
    path, good = harmful("crash"), tmp_path / "good.wav"
    good.write_bytes(written(sine(1.0), 16_000))
    model = Model(FakeRecognizer())
    results = list(model.transcribe_each([good, path, good, path, Waveform(sine(1.0))], vad=False))
    assert [isinstance(result, Transcript) for result in results] == [True, False, True, False, True]
    assert [result.text for result in results if isinstance(result, Transcript)] == ["1.00 seconds"] * 3


def test_one_worker_serves_many_files_and_a_dead_one_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[isolation._Worker] = []
    start = isolation._Worker.__init__

    def counted(self: isolation._Worker) -> None:
        started.append(self)
        start(self)

    monkeypatch.setattr(isolation._Worker, "__init__", counted)
    for _ in range(5):
        audio.load(wav())
    with pytest.raises(AudioError):
        audio.load(b"no sound")
    assert len(started) == 1
    started[0].process.kill()
    started[0].process.wait()
    assert audio.load(wav()).duration == 0.1
    assert len(started) == 2


def test_a_worker_that_was_prepared_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    isolation.prepare()
    (worker,) = isolation._idle
    assert audio.load(wav()).duration == 0.1
    assert isolation._idle == [worker]


def test_a_worker_that_ends_for_want_of_work_just_when_it_gets_some_costs_no_recording(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    isolation.end_idle()
    with monkeypatch.context() as patch:
        impatient = "from redline.audio import worker; worker._IDLE_S = 0.01; worker.main("
        patch.setattr(isolation, "_BOOT", isolation._BOOT.replace("main(", impatient))
        isolation.prepare()
    (worker,) = isolation._idle
    assert worker.process.wait(20) == isolation.IDLE_STATUS
    monkeypatch.setattr(worker, "is_running", lambda: True)  # as it was seen a moment before
    assert audio.load(wav()).duration == 0.1
    assert worker not in isolation._idle


def test_threads_have_workers_of_their_own() -> None:
    sounds = [written(sine(2.0, hertz=200.0 + 100 * number), 16_000) for number in range(6)]
    got: dict[int, Any] = {}

    def read(number: int) -> None:
        for _ in range(3):
            got[number] = audio.load(sounds[number]).samples

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, sound in enumerate(sounds):
        assert np.array_equal(got[number], audio.load(sound, options=HERE).samples)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_starts_its_own() -> None:
    program = f"""
import os
from redline import audio
data = {wav()!r}
audio.load(data)
child = os.fork()
for _ in range(20):
    assert audio.load(data).duration == 0.1
if child:
    assert os.waitpid(child, 0)[1] == 0
print("read")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert done.stdout == b"read\nread\n" or done.stdout.count(b"read") == 2, done.stderr


# --- ends ---

PROGRAM = """
import sys, time
from redline import audio
from redline.audio import isolation
boot = {boot!r}
if boot:
    isolation._BOOT = boot
start = isolation._Worker.__init__
def told(self):
    start(self)
    print(self.process.pid, flush=True)
isolation._Worker.__init__ = told
audio.load({source!r})
print("read", flush=True)
time.sleep(600)
"""


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    if sys.platform != "linux":
        return True
    state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[-1].split()[0]
    return state != "Z"


def is_gone(process: int) -> bool:
    for _ in range(100):
        if not is_running(process):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("is_busy", [True, False])
def test_no_worker_is_left_behind(how: signal.Signals, is_busy: bool) -> None:
    boot = BOOT.format(harm="import time; time.sleep(2)") if is_busy else ""
    program = PROGRAM.format(boot=boot, source=b"HARM" if is_busy else wav())
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        if is_busy:
            time.sleep(0.3)
        else:
            assert parent.stdout.readline() == b"read\n"
        assert is_running(worker)
        parent.send_signal(how)
        parent.wait(timeout=30)
    assert is_gone(worker)


def test_an_interrupt_while_decoding_ends_the_worker_and_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    workers: list[isolation._Worker] = []
    borrow = isolation._borrow

    def interrupted() -> isolation._Worker:
        worker = borrow()
        workers.append(worker)

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(worker, "_message", stop)
        return worker

    monkeypatch.setattr(isolation, "_borrow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audio.load(wav())
    assert not workers[0].is_running() and is_gone(workers[0].process.pid)


# --- where there are none ---


@pytest.mark.parametrize("lack", ["fds", "python", "process"])
def test_where_no_worker_can_be_started_it_is_told_once_and_decoded_here(
    lack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_lacking", [])
    if lack == "fds":
        monkeypatch.delattr(socket, "send_fds")
    elif lack == "python":
        monkeypatch.setattr(sys, "executable", "/usr/bin/server")
    else:
        monkeypatch.setattr(isolation, "_BOOT", "import nothing")
    with pytest.warns(UserWarning, match="without the protection of a worker"):
        assert audio.load(wav()).duration == 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audio.load(BytesIO(wav())).duration == 0.1


def test_a_worker_imports_little() -> None:
    program = "import sys, redline.audio.worker; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_many_short_recordings_at_once_are_decoded_by_a_few_processes(
    jfk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []

    class Counted(isolation._Worker):
        def __init__(self) -> None:
            started.append(self)
            super().__init__()

    isolation.end_idle()
    monkeypatch.setattr(isolation, "_Worker", Counted)
    monkeypatch.setattr(isolation, "_JUST_S", 60.0)
    with ThreadPoolExecutor(16) as pool:
        waves = list(pool.map(audio.load, [jfk] * 16))
    assert len(started) <= isolation._MOST_IDLE
    assert all(np.array_equal(wave.samples, waves[0].samples) for wave in waves)


def test_recordings_that_are_read_slowly_keep_no_other_waiting(jfk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(just_s: float) -> int:
        monkeypatch.setattr(isolation, "_JUST_S", just_s)
        return len(audio.load(jfk).samples)

    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        for _ in range(isolation._MOST_IDLE):
            next(stack.enter_context(audio.open_blocks(jfk)))
        assert read(3600.0), "a thread does not wait for itself"
        assert pool.submit(read, 0.01).result(60), "nor another one for longer than a recording is new"
