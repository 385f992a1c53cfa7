"""A command that only recognizes loads nothing for other work, and whoever asks for that gets it whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OTHER_WORK = (
    "torch._decomp.decompositions", "torch._dynamo", "torch._export", "torch._refs", "torch.ao.quantization.quantize",
    "torch.distributions.normal", "torch.export.unflatten", "torch.masked.maskedtensor", "torch.nn.intrinsic.qat",
    "torch.onnx", "torch.optim.adam", "torch.quantization.quantize", "torch.utils.data.dataloader", "sympy", "jinja2",
    "numpy.ma", "transformers", "silero_vad", "scipy", "av", "soxr", "redline.train", "redline.evaluate",
    "redline.sandbox",
)  # fmt: skip


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def started(code: str) -> str:
    """What a process prints that has started as the command does."""
    return python(
        "import sys\nfrom redline.engine import start\nstart.open_libraries()\n"
        f"with start.recognizing_only():\n    import torch\n{code}"
    )


def test_the_command_imports_nothing_for_other_work(random_checkpoint: Path, jfk: Path) -> None:
    code = (
        "import sys\nfrom redline.cli.main import main\n"
        f"sys.argv = ['redline', 'transcribe', {str(jfk)!r}, '--model', {str(random_checkpoint)!r}, '--quiet']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('torch' in sys.modules, [name for name in {OTHER_WORK} if name in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "True []"


def test_a_server_imports_nothing_for_other_work(random_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["redline", "serve", "--model", str(random_checkpoint), "--data", str(tmp_path), "--port", "0"]
    code = (
        "import sys, uvicorn\nfrom redline.cli.main import main\n"
        f"uvicorn.Server.run = lambda *_: None\nsys.argv = {arguments}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('torch' in sys.modules, [name for name in {OTHER_WORK} if name in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "True []"


def test_the_process_that_decodes_imports_no_torch() -> None:
    code = "import sys, redline.audio.worker, av, soxr; print('torch' in sys.modules, 'av' in sys.modules)"
    assert python(code) == "False True"


def test_deferred_modules_are_whole_when_they_are_used() -> None:
    code = (
        "parts = [sys.modules[name] for name in start.DEFERRED]\n"
        "print(all(part.__file__ and not hasattr(part, '__wrapped__') for part in parts))\n"
        "print('torch.optim.adam' in sys.modules)\n"
        "from torch.utils.data import DataLoader\n"
        "x = torch.nn.Parameter(torch.tensor([1.0]))\n"
        "optimizer = torch.optim.SGD([x], lr=0.5); (x * 2).sum().backward(); optimizer.step()\n"
        "print(x.item(), list(DataLoader([1, 2], batch_size=2))[0].tolist(), hasattr(torch.optim, 'no_such_name'))\n"
        "print(torch.distributions.Normal(0.0, 1.0).mean.item(), torch.masked.masked_tensor.__name__)\n"
        "print(torch.export.export.__name__, torch.nn.quantized.Linear.__name__, torch.quantization.QConfig.__name__)"
    )
    assert started(code).splitlines() == [
        "True",
        "False",
        "0.0 [1, 2] False",
        "0.0 masked_tensor",
        "export Linear QConfig",
    ]


def test_the_compiler_is_imported_in_its_own_order() -> None:
    assert started("import torch._prims\nimport torch._dynamo\nprint('torch.optim.adam' in sys.modules)") == "True"


def test_a_part_of_a_deferred_module_is_imported_behind_it() -> None:
    code = "from torch.distributions.normal import Normal\nprint(torch.distributions.Normal is Normal)"
    assert started(code) == "True"


def test_threads_that_use_a_deferred_module_at_once_both_get_it_whole() -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    print(set(pool.map(lambda _: torch.distributions.Uniform.__name__, range(64))))"
    )
    assert started(code) == "{'Uniform'}"


def test_an_untested_torch_is_imported_whole() -> None:
    code = (
        "import sys\nfrom redline.engine import start\nstart.TESTED = 'none'\nstart.import_deferring()\n"
        "import torch\nprint('torch.optim.adam' in sys.modules, 'torch._refs' in sys.modules)"
    )
    assert python(code) == "True True"


def test_the_tested_torch_is_the_one_that_is_pinned() -> None:
    from redline.engine.start import TESTED

    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
    assert f"\ntorch=={TESTED}" in pinned


def test_garbage_is_collected_again_behind_the_start() -> None:
    code = "import gc; print(gc.isenabled(), gc.get_freeze_count() > 0)"
    assert started(code) == "True True"
