"""Sizes of /dev/shm by hand, and what they grow with."""

from model_repo_generator.kubernetes.memory import MIB, shm_bytes, stub_count, tensor_bytes
from planner.manifest import DeploymentManifest
from planner.profile import TensorSpec

IMAGE, WIDE, LOGITS = 3 * 32 * 32 * 4, 16 * 32 * 32 * 4, 10 * 4


def test_stage_server_by_hand(fleet_manifest: DeploymentManifest) -> None:
    """Two halves of a T4 that take the wide cut in batches of up to 4 and give logits."""
    server = fleet_manifest.server("T4-0")
    per_stub = 32 * MIB + 3 * 4 * (WIDE + LOGITS + LOGITS)
    wanted = 2 * per_stub * 1.25
    made = shm_bytes(fleet_manifest, server, in_flight=3, default_bytes=32 * MIB)
    assert made % MIB == 0
    assert wanted <= made < wanted + MIB


def test_it_grows_with_batches_in_flight_and_pools(fleet_manifest: DeploymentManifest) -> None:
    server = fleet_manifest.server("T4-0")
    sizes = [
        shm_bytes(fleet_manifest, server, in_flight=depth, default_bytes=32 * MIB) for depth in (1, 30, 60)
    ]
    assert sizes == sorted(set(sizes))
    assert shm_bytes(fleet_manifest, server, in_flight=1, default_bytes=64 * MIB) >= 160 * MIB


def test_never_less_than_a_container_has_anyway(fleet_manifest: DeploymentManifest) -> None:
    server = fleet_manifest.server("L4-1")
    assert shm_bytes(fleet_manifest, server, in_flight=1, default_bytes=MIB) == 64 * MIB


def test_ensembles_have_no_process(fleet_manifest: DeploymentManifest) -> None:
    """Two models, each with a dispatcher and an ensemble."""
    assert stub_count(fleet_manifest.entry, fleet_manifest) == 2


def test_free_dimensions_and_encoded_images_are_bounded() -> None:
    frame = TensorSpec(name="raw", dtype="UINT8", shape=(-1, -1, 3))
    assert tensor_bytes((frame,)) >= 1920 * 1080 * 3
    assert tensor_bytes((TensorSpec(name="jpeg", dtype="BYTES", shape=(1,)),)) >= MIB
