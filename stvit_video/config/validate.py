"""All rules over config values in one table, and the check of a config against it."""

from collections.abc import Mapping

from fvcore.common.config import CfgNode

from stvit_video.config.data_rules import DATA_RULES
from stvit_video.config.detection_rules import DETECTION_RULES
from stvit_video.config.keys import leaves
from stvit_video.config.model_rules import MODEL_RULES
from stvit_video.config.rules import Rule
from stvit_video.config.run_rules import RUN_RULES
from stvit_video.config.semantic_rules import SEMANTIC_RULES
from stvit_video.config.solver_rules import SOLVER_RULES
from stvit_video.errors import UserError

# In order: a rule may take for granted that those before it hold (a length before the entries,
# a divisor above 0 before a division).
RULES: tuple[Rule, ...] = (
    *RUN_RULES,
    *DATA_RULES,
    *MODEL_RULES,
    *SEMANTIC_RULES,
    *DETECTION_RULES,
    *SOLVER_RULES,
)


def validate(cfg: CfgNode, *, origins: Mapping[str, str]) -> None:
    """Check a merged config against all rules before anything starts.

    Args:
        cfg: the config, whose values have the types of the defaults.
        origins: where the values that are not defaults were written, {dotted key: "a.yaml:3"}.

    Raises:
        UserError: the first rule that does not hold, with the values and where they stand.
    """
    values = leaves(cfg)
    for rule in RULES:
        if rule.is_broken(values):
            raise UserError(rule.describe(values, origins=origins))
