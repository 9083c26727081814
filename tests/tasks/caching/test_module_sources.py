"""A task depends on the sources of all modules that produce its examples, and on no others."""

from t5x_like.tasks.caching.module_sources import with_imports


def test_imports_are_followed_within_a_package_only(tmp_path, monkeypatch):
    package = tmp_path / "followed_tasks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text(
        "import json\nfrom followed_tasks import b\nfrom t5x_like.data.cache import token_cache\n"
    )
    (package / "b.py").write_text("def f():\n    from .c import NAME\n    return NAME\n")
    (package / "c.py").write_text("import followed_tasks.a\nNAME = 'c'\n")
    (package / "d.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert with_imports(["followed_tasks.a"]) == {f"followed_tasks.{name}" for name in "abc"}


def test_imports_of_modules_beside_are_followed(tmp_path, monkeypatch):
    """A user's modules in one folder belong together; installed ones do not."""
    (tmp_path / "beside_tasks.py").write_text("import numpy\nfrom beside_texts import TEXTS\nimport absent\n")
    (tmp_path / "beside_texts.py").write_text("from beside_package.part import X\nTEXTS = [X]\n")
    (tmp_path / "beside_package").mkdir()
    for name in ("__init__", "part"):
        (tmp_path / "beside_package" / f"{name}.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert with_imports(["beside_tasks"]) == {"beside_tasks", "beside_texts", "beside_package.part"}


def test_imports_of_t5x_like_are_followed():
    modules = with_imports(["t5x_like.tasks.mixtures"])
    assert {
        "t5x_like.tasks.synthetic.sampling",
        "t5x_like.tasks.corpora",
        "t5x_like.tasks.synthetic.lists",
        "t5x_like.prompting.templates",
    } <= modules
    assert not any(name.startswith(("t5x_like.data.cache.token_cache", "seqio")) for name in modules)


def test_a_module_without_source_has_no_imports():
    assert with_imports(["math", "no_such_module"]) == {"math", "no_such_module"}
