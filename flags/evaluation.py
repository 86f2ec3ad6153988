"""Flags of what is scored, and of what is decided about studies."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import InputError
from flags.parsing import ids_in, require

if TYPE_CHECKING:
    from common.statistics.operating_points import Rule


@dataclass(frozen=True)
class EvaluationConfig:
    """What evaluate.py scores, and scripts/calibrate.py fits to."""

    ev_held_out: str | None = None
    """Ids of patients or studies, separated by commas, or a file with one a line: only these are
    scored, or calibrated on, as those that the weights were not trained on."""
    ev_rule: str | None = None
    """How the threshold is chosen from which on a study is called, for each label and on other
    patients than are scored: sensitivity:0.95 or specificity:0.9 (at least that), cost:10 (lowest
    cost, where a miss costs as much as ten false alarms) or fixed:0.3 (none: no calls are
    scored, unless the predictor has thresholds)."""
    ev_prevalence: float | None = None
    """Share of studies with a label where the network will work, for predictive values, alarms, the
    decision curve and the cost of --ev_rule (none: that of the studies scored)."""
    ev_error: float = 0.0
    """Error rate of a triage into rule_in, rule_out and read: most that may be ruled out of the
    patients with any, and ruled in of the others (0: no triage, unless the predictor has one)."""

    def __post_init__(self) -> None:
        rule = "at least 0 and below 0.5"
        require(self, "ev_error", 0 <= self.ev_error < 0.5, rule)
        if self.ev_prevalence is not None:
            require(self, "ev_prevalence", 0 < self.ev_prevalence < 1, "between 0 and 1")
        try:
            _ = self.rule
        except InputError as error:
            raise InputError(f"--ev_rule {self.ev_rule}: {error}") from None

    @property
    def ids(self) -> frozenset[str] | None:
        """The ids; None without the flag."""
        return None if self.ev_held_out is None else ids_in("ev_held_out", self.ev_held_out)

    @property
    def rule(self) -> "Rule | None":
        """The rule, where a cost is one at the prevalence; None without the flag."""
        if self.ev_rule is None:
            return None
        # Statistics take long to import, for the scripts that ask for none.
        from common.statistics.operating_points import Rule

        return Rule.from_text(self.ev_rule, self.ev_prevalence)
