"""What every test shares: the platform, strict shapes, the optional data folder, and the gate of the gpu tests."""

import importlib.metadata
import os
import signal
from pathlib import Path

# Before the first import of jax, and inherited by the subprocesses that tests start.
PLATFORM = os.environ.get("MAMBA_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

# A shell starts what runs in its background with SIGINT ignored, and every subprocess of a test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402
import pytest  # noqa: E402

# Again through the configuration: a pytest plugin may have imported jax, which reads the environment at import only.
jax.config.update("jax_platforms", PLATFORM)
jax.config.update("jax_numpy_rank_promotion", os.environ["JAX_NUMPY_RANK_PROMOTION"])

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Compiles in haste where slow tests are left out, here and in subprocesses: nearly all time goes into compiling then.

    Slow tests, which compute for longer, run as users do. The older fusions of XLA compile in two thirds of the time where jaxlib
    has them; newer ones end a process that asks for them.
    """
    if "not slow" not in (config.option.markexpr or "") or PLATFORM != "cpu":
        return
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
        pytest.skip(f"needs an accelerator; jax runs on cpu (MAMBA_TEST_PLATFORM={PLATFORM})")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The optional folder `shared` beside the checkout: reference material that is not part of the project."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("there is no folder `shared` beside the checkout")
    return folder
