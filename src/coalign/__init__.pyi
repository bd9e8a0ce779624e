"""What type checkers see of `coalign`; `__init__.py` imports each name when it is asked for."""

from coalign.core.options import option as option
from coalign.core.runs import Run as Run
from coalign.data.checking.check import check_records as check_records
from coalign.data.readers import read_records as read_records
from coalign.data.records import Record as Record
from coalign.judging.language_judge import LanguageModelJudge as LanguageModelJudge
from coalign.judging.rewards.specs import RewardOptions as RewardOptions
from coalign.judging.rewards.specs import build_rewards as build_rewards
from coalign.judging.verifiers.registry import verifier as verifier
from coalign.models.backends.open import open_named as open_named
from coalign.models.files.loading import load_model as load_model
from coalign.models.files.loading import load_tokenizer as load_tokenizer
from coalign.models.files.saving import save_model as save_model
from coalign.models.options import ModelOptions as ModelOptions
from coalign.models.reward_model import load_reward_model as load_reward_model
from coalign.models.scoring.engine import score_responses as score_responses
from coalign.models.types import Responses as Responses
from coalign.models.types import Sampling as Sampling
from coalign.training.learning import learn as learn
from coalign.training.learning import learner as learner
from coalign.training.objective import Losses as Losses
from coalign.training.objective import ScoredBatch as ScoredBatch
from coalign.training.objective import get_objective as get_objective
from coalign.training.objective import objective as objective
from coalign.training.options import TrainingOptions as TrainingOptions

__version__: str
