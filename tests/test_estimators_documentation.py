"""help(), Sphinx and Jupyter's tooltips tell every parameter of the estimators, with scikit-learn's own words."""

from __future__ import annotations

import ast
import doctest
import inspect
from typing import Any

import pytest
from sklearn import neural_network

from nnfast import MLPClassifier, MLPRegressor
from nnfast.estimators import documentation
from tests.test_estimators_same_model import make_data

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = [MLPClassifier, MLPRegressor]


def parsed(kind: Any) -> Any:
    """The docstring as numpydoc's parser reads it, which scikit-learn brings for its tooltips."""
    parser = pytest.importorskip("sklearn.externals._numpydoc.docscrape", reason="scikit-learn has numpydoc since 1.8")
    return parser.NumpyDocString(inspect.getdoc(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_documented_with_its_type_and_default(kind: Any) -> None:
    entries = parsed(kind)["Parameters"]
    assert {entry.name for entry in entries} == set(kind().get_params())
    signature = inspect.signature(kind).parameters
    assert [entry.name for entry in entries] == list(signature)
    for entry in entries:
        described, _, default = entry.type.partition("default=")
        assert described.strip(), entry.name
        assert ast.literal_eval(default) == signature[entry.name].default, entry.name
        text = " ".join(entry.desc).strip()
        assert len(text) > 20, entry.name
        assert "versionadded" not in text, f"{entry.name}: of scikit-learn's versions"


@pytest.mark.parametrize("kind", KINDS)
def test_every_fitted_attribute_is_documented(kind: Any) -> None:
    X, y = make_data("multiclass")
    fitted = kind(hidden_layer_sizes=(3,), max_iter=2, early_stopping=True).fit(X, y)
    public = {name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")}
    assert public <= {entry.name for entry in parsed(kind)["Attributes"]}


@pytest.mark.parametrize("kind", KINDS)
def test_what_scikit_learn_says_of_a_shared_parameter_is_said(kind: Any) -> None:
    theirs = {entry.name: entry for entry in parsed(getattr(neural_network, kind.__name__))["Parameters"]}
    ours = {entry.name: entry for entry in parsed(kind)["Parameters"]}
    assert {name for name in theirs if ours[name].desc[:2] != theirs[name].desc[:2]} <= {"activation", "loss"}
    assert {name for name in theirs if ours[name].type != theirs[name].type} <= {"activation", "loss"}


@pytest.mark.parametrize("kind", KINDS)
def test_jupyter_shows_every_parameter_s_text_and_links_to_scikit_learn_s_page(kind: Any) -> None:
    theirs = getattr(neural_network, kind.__name__)()
    assert kind()._get_doc_link() == theirs._get_doc_link() != ""
    shown = kind()._repr_html_()
    assert f'href="{theirs._get_doc_link()}' in shown
    if "param-doc-link" not in theirs._repr_html_():
        pytest.skip("this scikit-learn shows no tooltips")
    for name in kind().get_params():
        assert f'<span class="param-doc-description"\n            style="position-anchor: --doc-link-{name};">' in shown


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_in_a_docstring_runs(kind: Any) -> None:
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(kind), {}, kind.__name__, None, 0)
    assert len(test.examples) >= 3
    assert doctest.DocTestRunner().run(test).failed == 0


def test_a_program_without_docstrings_goes_without() -> None:
    """As under python -OO."""

    class MLPClassifier:
        def __init__(self, alpha: float = 1.0) -> None: ...

    assert documentation.documented(MLPClassifier).__doc__ is None
