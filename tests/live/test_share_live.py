"""One folder for all groups of a fleet, whose servers take the configuration of their class."""

from pathlib import Path

import pytest
import tritonclient.grpc as triton

from model_repo_generator.generate import generate
from planner.deployment import Deployment
from planner.plan import Plan
from planner.profile import Profile
from tests.live.live_server import running, wait_ready

pytestmark = [pytest.mark.live, pytest.mark.unhurried]


def test_a_server_takes_its_class_configuration(
    emulated: Deployment, profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "repository"
    manifest = generate(emulated, profile, plan, out, one_folder=True)
    (server,) = (each for each in manifest.servers if each.group == "slow")
    for model in server.models:
        config = out / server.repository / model / "config.pbtxt"
        config.write_text(config.read_text().replace("max_batch_size: 4", "max_batch_size: 3"))
    options = ["--model-config-name=slow"]
    with running(out / server.repository, server.models, tmp_path / "log", options=options) as live:
        wait_ready(live, server.models)
        with triton.InferenceServerClient(live.grpc) as client:
            sizes = {client.get_model_config(model).config.max_batch_size for model in server.models}
    assert sizes == {4}
