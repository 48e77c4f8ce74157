"""No text of a deployment gets out of its field: names that mean something to YAML, PromQL, templates."""

import dataclasses
import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from model_repo_generator.kubernetes import KubernetesOptions, render_bundle
from model_repo_generator.yaml_text import dump
from planner.deployment import DeploymentError, parse_deployment
from planner.placing import place
from tests.kubernetes.conftest import deployment_data, hand_made_plan, manifest_of

HOSTILE = (
    "1e3", "0x10", "0o7", "012", "y", "No", "null", "~", "1_000", ".inf", "2001-01-01", "1:30", "<<", "=",
    "a: b", "- a", "#x", "a\n---\nkind: Secret", "$(POD_IP)", "${HOME}", "{{ .Values }}", '"} or vector(1) #',
    "../../etc", "a b", "&a", "*a", "!tag", "%", "\u2028", "'", '"', "\\", "[[x]]", "$__all", "Ünicode",
)  # fmt: skip
NUMBERS_AND_WORDS = re.compile(
    r"""[-+]?[0-9_]+ | [-+]?0[xob][0-9A-Fa-f_]+ | [-+]?[0-9_]*\.?[0-9_]*([eE][-+]?[0-9]+)?
    | [-+]?[0-9][0-9_:.]*
    | [-+]?\.(inf|nan) | ~ | null | true | false | y | n | yes | no | on | off | << | = | \d{4}-\d.*""",
    re.VERBOSE | re.IGNORECASE,
)
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30), st.from_regex(r"[0-9a-zA-Z_.-]{1,8}"))


@given(value=st.recursive(texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8))
def test_what_is_dumped_is_what_is_read(value: Any) -> None:
    assert list(yaml.safe_load_all(dump([{"a": value}, "b"]))) == [{"a": value}, "b"]


@given(text=texts)
def test_no_parser_takes_a_text_for_a_number_or_a_word(text: str) -> None:
    """PyYAML knows fewer of them than Kubernetes' parser, so reading it back with PyYAML would not do."""
    for token in yaml.scan(dump([{text: text}])):
        if isinstance(token, yaml.ScalarToken) and token.plain:
            assert not NUMBERS_AND_WORDS.fullmatch(token.value)


def shape(value: Any) -> Any:
    """The structure of a document without its texts."""
    if isinstance(value, dict):
        return [shape(item) for item in value.values()]
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def shapes(bundle: dict[str, str]) -> list[str]:
    """The structure of every object, in an order that does not depend on names."""
    return sorted(
        str(shape(document))
        for path, text in bundle.items()
        if path.endswith(".yaml")
        for document in yaml.load_all(text, yaml.CSafeLoader)
    )


def render_named(name: str, field: str) -> dict[str, str]:
    """The bundle with one name changed everywhere. Raises ValueError."""
    old = {"deployment": "street", "class": "T4", "model": "cars", "server": "T4-0"}[field]

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {renamed(key): renamed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [renamed(item) for item in value]
        return name if value == old else value

    deployment = parse_deployment(renamed(deployment_data()), "test")
    plan = hand_made_plan()
    if field == "class":
        plan = _with_class(name)
    if field == "model":
        first, second = plan.models
        plan = dataclasses.replace(plan, models=(dataclasses.replace(first, model=name), second))
    plan = dataclasses.replace(plan, placement=place(plan, deployment.to_cluster()))
    manifest = _manifest(deployment, plan, field, name)
    options = KubernetesOptions(image="ppipe:1", namespace="vision")
    return render_bundle(manifest, deployment, plan, options)


def _with_class(name: str) -> Any:
    plan = hand_made_plan()
    first, second = plan.models
    (split,) = first.pipelines
    stages = (split.stages[0], dataclasses.replace(split.stages[1], gpu=name))
    first = dataclasses.replace(first, pipelines=(dataclasses.replace(split, stages=stages),))
    return dataclasses.replace(plan, models=(first, second))


def _manifest(deployment: Any, plan: Any, field: str, name: str) -> Any:
    from tests.kubernetes import conftest as fleet

    profiles = {model: fleet.model_profile(model) for model in ("cars", "faces")}
    if field == "class":
        profiles = {
            model: dataclasses.replace(
                profile,
                tables=tuple(
                    dataclasses.replace(table, gpu=name if table.gpu == "T4" else table.gpu)
                    for table in profile.tables
                ),
            )
            for model, profile in profiles.items()
        }
    if field == "model":
        profiles["cars"] = dataclasses.replace(profiles["cars"], model=name)
    return manifest_of(deployment, plan, tuple(profiles.values()))


@settings(max_examples=60)
@given(name=texts, field=st.sampled_from(["deployment", "class", "model", "server"]))
def test_a_name_is_refused_or_changes_nothing_but_itself(name: str, field: str) -> None:
    try:
        made = render_named(name, field)
    except ValueError:  # DeploymentError, NameFault, BundleFault: all say what is wrong with it
        return
    same = render_named("abc", field)
    assert len(made) == len(same)
    assert shapes(made) == shapes(same)
    assert shape(json.loads(made["launch/servers.json"])) == shape(json.loads(same["launch/servers.json"]))


@pytest.mark.parametrize("name", ["1e3", "y", "0x10", "no", "a.b_c", "012"])
def test_strange_names_that_are_allowed_stay_texts(name: str) -> None:
    made = render_named(name, "class")
    sets = [yaml.safe_load(text) for path, text in made.items() if path.startswith("servers-")]
    groups = [each["spec"]["template"]["metadata"]["labels"]["ppipe/group"] for each in sets]
    assert name in groups
    assert f'"{name}"' in "".join(made.values()) or name == "a.b_c"


@pytest.mark.parametrize("name", [name for name in HOSTILE if not re.fullmatch(r"[A-Za-z0-9._-]+", name)])
@pytest.mark.parametrize("field", ["deployment", "class", "model", "server"])
def test_names_that_mean_something_are_refused(name: str, field: str) -> None:
    with pytest.raises(DeploymentError):
        render_named(name, field)


@pytest.mark.parametrize("name", ["a\n---\nkind: Secret", "$(POD_IP)", "../x", '"} or vector(1) #'])
def test_a_manifest_edited_by_hand_is_refused_too(
    name: str, fleet_manifest: Any, fleet_deployment: Any, fleet_plan: Any, options: KubernetesOptions
) -> None:
    model = dataclasses.replace(fleet_manifest.models[0], model=name)
    server = dataclasses.replace(fleet_manifest.servers[0], models=(name,))
    for change in (
        {"deployment": name},
        {"plan_hash": name},
        {"versions": {"triton": name}},
        {"models": (model, *fleet_manifest.models[1:])},
        {"servers": (server, *fleet_manifest.servers[1:])},
    ):
        with pytest.raises(ValueError, match=r"deployment\.json"):
            render_bundle(
                dataclasses.replace(fleet_manifest, **change), fleet_deployment, fleet_plan, options
            )
