"""One repository for the whole fleet, with a configuration per class."""

from pathlib import Path

from model_repo_generator.checking.on_disk import check
from model_repo_generator.generate import generate
from planner.deployment import Deployment
from planner.plan import Plan
from planner.profile import Profile


def test_every_model_has_its_class_configuration(
    emulated: Deployment, profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "repository"
    manifest = generate(emulated, profile, plan, out, one_folder=True)
    for server in (manifest.entry, *manifest.servers):
        assert server.repository == "groups/fleet"
        for model in server.models:
            folder = out / server.repository / model
            own = (folder / "configs" / f"{server.group}.pbtxt").read_text()
            assert own == (folder / "config.pbtxt").read_text()
            assert [path.name for path in (folder / "configs").iterdir()] == [f"{server.group}.pbtxt"]
    assert check(emulated, profile, plan, out) == ()
