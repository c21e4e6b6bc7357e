"""The public names of hsm_models and where each lives: the one list, read by type checkers and by `__init__.py`."""

from .checkpoint import build_model as build_model
from .checkpoint import fingerprint as fingerprint
from .checkpoint import load_checkpoint as load_checkpoint
from .checkpoint import read_config as read_config
from .checkpoint import resolve as resolve
from .checkpoint import save_checkpoint as save_checkpoint
from .config import ImageConfig as ImageConfig
from .config import LayerConfig as LayerConfig
from .config import ModelConfig as ModelConfig
from .errors import CheckpointError as CheckpointError
from .errors import ConfigError as ConfigError
from .errors import DataError as DataError
from .errors import ModelError as ModelError
from .feed_forward import GatedMLPConfig as GatedMLPConfig
from .feed_forward import MLPConfig as MLPConfig
from .feed_forward import MoEConfig as MoEConfig
from .language_model import LanguageModel as LanguageModel
from .mixers import HSM as HSM
from .mixers import GatedConvolutionConfig as GatedConvolutionConfig
from .mixers import HSMConfig as HSMConfig
from .mixers import Mixer as Mixer
from .mixers import RWKV7ChannelConfig as RWKV7ChannelConfig
from .mixers import RWKV7Config as RWKV7Config
from .mixers import SoftmaxAttention as SoftmaxAttention
from .mixers import SoftmaxConfig as SoftmaxConfig
from .mixers import State as State
from .mixers import StateEntry as StateEntry
from .mixers import SwitchHead as SwitchHead
from .mixers import SwitchHeadConfig as SwitchHeadConfig
from .mixers import TaylorShift as TaylorShift
from .mixers import TaylorShiftConfig as TaylorShiftConfig
from .parts import FeedForwardConfig as FeedForwardConfig
from .parts import MixerConfig as MixerConfig
from .parts import Place as Place
from .parts import mixer as mixer
from .sequence_classifier import SequenceClassifier as SequenceClassifier

__version__: str
