from __future__ import annotations

import pytest

from pipeline.attribution.rules import RULES, make_rule
from pipeline.attribution.rules.alpha_beta import AlphaBeta
from pipeline.attribution.rules.epsilon import Epsilon
from pipeline.attribution.rules.gamma import Gamma
from pipeline.attribution.rules.z_plus import ZPlus
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("z_plus", ZPlus()),
        (" z_plus ( ) ", ZPlus()),
        ("gamma(gamma=0.1)", Gamma(0.1)),
        ("gamma( stabilizer = 1e-3 , gamma = 2 )", Gamma(2.0, 1e-3)),
        ("alpha_beta(alpha=1, beta=0)", AlphaBeta(1, 0)),
        ("epsilon(epsilon=.5)", Epsilon(0.5)),
    ],
)
def test_a_text_names_a_rule_and_its_parameters(text, expected):
    assert make_rule(text) == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("gama", r"rules: head: rule 'gama' is unknown. Did you mean 'gamma'\? Allowed: epsilon, z_plus, gamma"),
        ("", "rule '' is unknown"),
        ("gamma(gamma=0.1", r"rule 'gamma\(gamma=0.1' is unknown"),
        (
            "gamma(gama=0.1)",
            r"has no parameter 'gama'. Did you mean 'gamma'\? Allowed: gamma, stabilizer, written gamma\(gamma=0.1\)",
        ),
        ("gamma(0.1)", "rule 'gamma' has no parameter '0.1'"),
        ("gamma(gamma=much)", "rules: head: gamma of rule 'gamma' is 'much', expected a number"),
        ("gamma(gamma=)", "gamma of rule 'gamma' is '', expected a number"),
        ("alpha_beta(alpha=2, beta=2)", r"'alpha_beta\(alpha=2, beta=2\)': alpha 2.0 and beta 2.0.*alpha - beta = 1"),
        ("alpha_beta(alpha=0.5, beta=-0.5)", "both must be >= 0"),
    ],
)  # fmt: skip
def test_what_names_no_rule_is_refused_with_what_is_allowed(text, match):
    with pytest.raises(ConfigError, match=match):
        make_rule(text, "rules: head")


def test_every_rule_can_be_named():
    for name, kind in RULES.items():
        assert make_rule(name) == kind()
