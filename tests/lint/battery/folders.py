"""Folders and files: version folders, missing files, model.py, config folders."""

from tests.lint.battery.case import MODEL_PY, Case, Outcome, config, python_model

R, A, HANGS = Outcome.REFUSED, Outcome.ACCEPTED, Outcome.HANGS

LATEST_TWO = "version_policy { latest { num_versions: 2 } }"


def folder(name: str, outcome: Outcome, *codes: str, files: dict[str, str], load: str = "@") -> Case:
    """A case of files."""
    return Case(name=name, outcome=outcome, codes=codes, files=files, load=load)


def versions(*names: str, rest: str = "") -> dict[str, str]:
    """A Python model with these version folders."""
    return {"@/config.pbtxt": config(rest=rest), **{f"@/{name}/model.py": MODEL_PY for name in names}}


FOLDER_CASES = (
    folder("version_two_digits", R, "version-missing", "version-folder", files=versions("01")),
    folder("version_letters", R, "version-missing", files=versions("v1")),
    folder("version_none", R, "version-missing", files={"@/config.pbtxt": config()}),
    folder("version_zero", A, "version-zero", files=versions("0")),
    folder("version_negative", HANGS, "version-misread", files=versions("-1")),
    folder("version_good_and_letters", A, files=versions("1", "old")),
    folder("version_good_and_padded", A, "version-folder", files=versions("1", "02")),
    folder("version_mixed", HANGS, "version-misread", files=versions("1a")),
    folder("version_space", HANGS, "version-misread", files=versions("1 ")),
    folder("version_newest_broken", HANGS, "model-file-hangs", files={**versions("1"), "@/2/": ""}),
    folder("version_older_broken", A, "model-file-unserved", files={**versions("2"), "@/1/": ""}),
    folder(
        "version_one_of_two_broken",
        HANGS,
        "model-file-hangs",
        files={**versions("1", rest=LATEST_TWO), "@/2/": ""},
    ),
    folder(
        "version_is_file", R, "version-missing", files={"@/config.pbtxt": config(), "@/1": "not a folder"}
    ),
    folder("versions_hidden", A, files={**versions("1"), "@/.git/": "", "@/configs/": "", "@/warmup/": ""}),
    folder("model_py_missing", HANGS, "model-file-hangs", files={"@/config.pbtxt": config(), "@/1/": ""}),
    folder(
        "model_py_elsewhere",
        HANGS,
        "model-file-hangs",
        files={"@/config.pbtxt": config(), "@/1/": "", "@/model.py": MODEL_PY},
    ),
    folder("model_py_syntax", R, "model-code", files=python_model(config(), code="def broken(:\n")),
    folder("model_py_no_class", R, "model-code", files=python_model(config(), code="x = 1\n")),
    folder(
        "model_py_no_execute",
        A,
        "model-code-incomplete",
        files=python_model(config(), code="class TritonPythonModel:\n    pass\n"),
    ),
    folder(
        "model_py_imported_class",
        A,
        files={
            **python_model(config(), code="from shim_at import TritonPythonModel\n"),
            "@/1/shim_at.py": MODEL_PY,
        },
    ),
    folder("model_py_empty", R, "model-code", files=python_model(config(), code="")),
    folder("config_missing", R, "config-missing", files=python_model(None)),
    folder("config_empty", A, "no-tensors", files=python_model("")),
    folder("config_wrong_name", R, "config-missing", files={**python_model(None), "@/config.txt": config()}),
    folder(
        "config_in_version", R, "config-missing", files={**python_model(None), "@/1/config.pbtxt": config()}
    ),
    folder(
        "custom_config_kept",
        A,
        files={**python_model(config()), "@/configs/h100.pbtxt": config(batch="max_batch_size: 4")},
    ),
    folder("folder_space", HANGS, "folder-name-hangs", files=python_model(config("@ x"), "@ x"), load="@ x"),
    folder("folder_dollar", HANGS, "folder-name-hangs", files=python_model(config("@$x"), "@$x"), load="@$x"),
    folder("folder_quote", HANGS, "folder-name-hangs", files=python_model(config("@'x"), "@'x"), load="@'x"),
    folder("folder_signs", A, files=python_model(config("@,=:%+^{x}"), "@,=:%+^{x}"), load="@,=:%+^{x}"),
    folder("folder_dots", A, files=python_model(config("@..x"), "@..x"), load="@..x"),
    folder("folder_unicode", R, "folder-name", files=python_model(config("@-é"), "@-é"), load="@-é"),
    folder(
        "folder_long", A, files=python_model(config("@" + "x" * 200), "@" + "x" * 200), load="@" + "x" * 200
    ),
    folder(
        "file_other_name",
        A,
        files={"@/config.pbtxt": config(rest='default_model_filename: "other.py"'), "@/1/other.py": MODEL_PY},
    ),
    folder("byte_order_mark", R, "syntax", files=python_model("\ufeff" + config())),
    folder("not_utf8_comment", A, files=python_model(config(rest="# caf\u00e9"))),
    folder("windows_lines", A, files=python_model(config().replace("\n", "\r\n"))),
)

DIES_OF_FOLDERS = (
    folder(
        "config_is_folder", Outcome.DIES, "config-folder", files={**python_model(None), "@/config.pbtxt/": ""}
    ),
    folder("version_huge", Outcome.DIES, "version-huge", files=versions("99999999999999999999")),
)
