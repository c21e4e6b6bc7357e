"""Sequence mixers: modules that move information between the tokens of a sequence.

Each maps x (B,T,D) to (B,T,D). The causal ones also decode: `initial_state(batch, capacity)` makes an empty state
and `forward_cached(x, state, position, lengths)` continues from it. Importing a mixer's file registers it.
"""

from ..state import State as State
from ..state import StateEntry as StateEntry
from .gated_convolution import GatedConvolution as GatedConvolution
from .gated_convolution import GatedConvolutionConfig as GatedConvolutionConfig
from .hsm import HSM as HSM
from .hsm import HSMConfig as HSMConfig
from .mixer import Mixer as Mixer
from .mixer import Shared as Shared
from .rwkv7 import RWKV7 as RWKV7
from .rwkv7 import RWKV7ChannelConfig as RWKV7ChannelConfig
from .rwkv7 import RWKV7Config as RWKV7Config
from .softmax import SoftmaxAttention as SoftmaxAttention
from .softmax import SoftmaxConfig as SoftmaxConfig
from .switch_head import SwitchHead as SwitchHead
from .switch_head import SwitchHeadConfig as SwitchHeadConfig
from .taylor_shift import TaylorShift as TaylorShift
from .taylor_shift import TaylorShiftConfig as TaylorShiftConfig
