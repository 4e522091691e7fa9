"""Banks of rows: `Arena` holds many, `Bank` is one."""

from memcore.bank.arena import Arena
from memcore.bank.bank import Bank
from memcore.bank.mark import Mark
from memcore.bank.reads import Rows

__all__ = ["Arena", "Bank", "Mark", "Rows"]
